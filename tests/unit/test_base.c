/* SPDX-License-Identifier: BSD-2-Clause */
/* The small tools that everything stands on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "gateway/base/buf.h"
#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/histogram.h"
#include "gateway/base/list.h"
#include "gateway/base/log.h"
#include "gateway/base/piece.h"
#include "gateway/base/str.h"

static void buf_keeps_order_and_never_exceeds_its_capacity(void **state)
{
    struct buf buf;
    buf_init(&buf, 8);

    assert_true(buf_append(&buf, "abcdef", 6));
    assert_false(buf_append(&buf, "xyz", 3));
    assert_int_equal(buf_len(&buf), 6);
    buf_consume(&buf, 4);
    assert_true(buf_append(&buf, "ghijkl", 6));
    assert_true(str_eq(buf_peek(&buf), STR("efghijkl")));
    assert_int_equal(buf_space(&buf), 0);

    size_t len;
    assert_null(buf_reserve(&buf, &len));
    buf_consume(&buf, 8);
    char *room = buf_reserve(&buf, &len);
    assert_non_null(room);
    assert_int_equal(len, 8);
    memcpy(room, "12", 2);
    buf_commit(&buf, 2);
    assert_true(str_eq(buf_peek(&buf), STR("12")));
    assert_true(buf_printf(&buf, "%d", 345));
    assert_false(buf_printf(&buf, "%s", "6789"));
    assert_true(str_eq(buf_peek(&buf), STR("12345")));
    buf_release(&buf);
    assert_true(buf_is_empty(&buf));
    assert_null(buf.mem);
}

static void pieces_are_kept_for_their_size_up_to_a_limit(void **state)
{
    (void)state;
    char *before = piece_new(100);
    piece_free(before, 100);
    piece_free(NULL, 100);

    pieces_keep(250);
    char *first = piece_new(100), *second = piece_new(100), *third = piece_new(100);
    char *other = piece_new(200);
    memset(first, 'x', 100);
    piece_free(first, 100);
    piece_free(other, 200); /* would be more than the limit */
    piece_free(second, 100);
    piece_free(third, 100); /* so would this */
    assert_ptr_equal(piece_new(100), second);
    char *zeroed = piece_zalloc(100);
    assert_ptr_equal(zeroed, first);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(zeroed[i], 0);
    piece_free(zeroed, 100);
    piece_free(second, 100);
    pieces_release();

    /* Nothing is kept any more; the leak checker looks for the rest. */
    piece_free(piece_new(100), 100);
}

static void more_sizes_of_pieces_than_drawers_get_on(void **state)
{
    void *pieces[100];

    (void)state;
    pieces_keep(1 << 20);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
            pieces[i] = piece_new(16 + i * 8);
            memset(pieces[i], (int)i, 16 + i * 8);
        }
        for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
            for (size_t at = 0; at < 16 + i * 8; at++)
                assert_int_equal(((unsigned char *)pieces[i])[at], i);
            piece_free(pieces[i], 16 + i * 8);
        }
    }
    pieces_release();
}

static void list_members_leave_without_a_search(void **state)
{
    struct list head, a, b, other;
    list_init(&head);
    list_init(&other);
    list_init(&a);
    list_init(&b);

    list_push_back(&head, &a);
    list_push_back(&head, &b);
    assert_ptr_equal(head.next, &a);
    list_move_all(&head, &other);
    assert_true(list_is_empty(&head));
    assert_ptr_equal(other.prev, &b);
    list_remove(&a);
    list_remove(&a);
    assert_false(list_is_linked(&a));
    assert_ptr_equal(other.next, &b);
}

static void numbers_are_read_strictly(void **state)
{
    static const struct {
        struct str text;
        bool valid;
        uint64_t value;
    } cases[] = {
        {STR("0"), true, 0},
        {STR("18446744073709551615"), true, UINT64_MAX},
        {STR("18446744073709551616"), false, 0},
        {STR(""), false, 0},
        {STR("+1"), false, 0},
        {STR("-1"), false, 0},
        {STR(" 1"), false, 0},
        {STR("0x1"), false, 0},
        {STR("1_0"), false, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t value = 42;
        assert_int_equal(str_to_u64(cases[i].text, &value), cases[i].valid);
        assert_int_equal(value, cases[i].valid ? cases[i].value : 42);
    }
}

static void split_gives_every_piece_once(void **state)
{
    struct str rest = STR("a,,b"), piece;

    assert_true(str_split(&rest, ',', &piece) && str_eq(piece, STR("a")));
    assert_true(str_split(&rest, ',', &piece) && str_eq(piece, STR("")));
    assert_true(str_split(&rest, ',', &piece) && str_eq(piece, STR("b")));
    assert_false(str_split(&rest, ',', &piece));
}

static void copies_are_terminated_and_refused_when_too_long(void **state)
{
    char small[4] = "xyz";

    assert_false(str_copy(small, sizeof(small), STR("abcd")));
    assert_string_equal(small, "xyz");
    assert_true(str_copy(small, sizeof(small), STR("abc")));
    assert_string_equal(small, "abc");
    str_copy_cut(small, sizeof(small), STR("wxyz"));
    assert_string_equal(small, "wxy");
}

static void times_are_written_as_the_rfcs_want(void **state)
{
    char text[CLOCK_RFC3339_SIZE];

    clock_format_rfc3339(1669674589123, text);
    assert_string_equal(text, "2022-11-28T22:29:49.123Z");
    clock_format_rfc3339(-1, text);
    assert_string_equal(text, "1969-12-31T23:59:59.999Z");
    clock_format_http_date(784111777000, text);
    assert_string_equal(text, "Sun, 06 Nov 1994 08:49:37 GMT");
    clock_format_http_date(INT64_MAX, text);
    assert_string_equal(text, "");
}

static void bytes_become_hex_and_base64(void **state)
{
    static const char *const expected[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                           "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    char out[16];

    for (size_t len = 0; len < ARRAY_SIZE(expected); len++) {
        assert_int_equal(encode_base64((const uint8_t *)"foobar", len, out), strlen(expected[len]));
        assert_string_equal(out, expected[len]);
    }
    encode_hex((const uint8_t[]){0x00, 0xff, 0x1a}, 3, out);
    assert_string_equal(out, "00ff1a");
    for (int i = 0; i < 1000; i++)
        assert_true(random_below(7) < 7);
}

static void log_lines_cannot_be_forged_by_a_peer(void **state)
{
    char line[512];
    const struct log_field fields[] = {
        LOG_SLICE("path", STR("/x\"\n{\\\x01\xff\xc3\xa9")),
        LOG_INT("n", -5),
        LOG_BOOL("ok", true),
        LOG_STR("empty", ""),
    };

    log_format_line(LOG_JSON, LOG_NOTICE, 0, "seen", fields, ARRAY_SIZE(fields), line,
                    sizeof(line));
    assert_string_equal(
        line, "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"notice\",\"msg\":\"seen\","
              "\"path\":\"/x\\\"\\u000a{\\\\\\u0001\\u00ff\xc3\xa9\",\"n\":-5,\"ok\":true}");
    log_format_line(LOG_LOGFMT, LOG_DEBUG, 0, "two words", fields + 1, 2, line, sizeof(line));
    assert_string_equal(line,
                        "time=1970-01-01T00:00:00.000Z level=debug msg=\"two words\" n=-5 ok=true");
}

/* Text is looked at in pieces of eight bytes: whatever stands anywhere in one, each byte comes out as
 * it does alone. */
static void each_byte_is_escaped_wherever_it_stands(void **state)
{
    char text[24], line[256], alone[256];

    for (int byte = 0; byte < 256; byte++) {
        const char c = (char)byte;
        size_t len =
            log_format_line(LOG_JSON, LOG_INFO, 0, "m", &LOG_SLICE("t", ((struct str){&c, 1})), 1,
                            alone, sizeof(alone));
        const char *from = strstr(alone, "\"t\":\"") + 5;
        struct str escaped = {from, len - (size_t)(from - alone) - 2};

        for (size_t at = 0; at < sizeof(text); at++) {
            memset(text, 'a', sizeof(text));
            text[at] = c;
            log_format_line(LOG_JSON, LOG_INFO, 0, "m",
                            &LOG_SLICE("t", ((struct str){text, sizeof(text)})), 1, line,
                            sizeof(line));
            const char *value = strstr(line, "\"t\":\"") + 5;
            assert_memory_equal(value, text, at);
            assert_memory_equal(value + at, escaped.p, escaped.len);
            assert_memory_equal(value + at + escaped.len, text + at + 1, sizeof(text) - at - 1);
            assert_string_equal(value + sizeof(text) - 1 + escaped.len, "\"}");
        }
    }
}

static void long_log_lines_are_cut_and_stay_well_formed(void **state)
{
    char line[256], big[1000];
    memset(big, '"', sizeof(big));
    const struct log_field fields[] = {LOG_SLICE("big", ((struct str){big, sizeof(big)})),
                                       LOG_INT("lost", 1)};

    size_t len =
        log_format_line(LOG_JSON, LOG_INFO, 0, "m", fields, ARRAY_SIZE(fields), line, sizeof(line));
    assert_true(len < sizeof(line));
    assert_string_equal(line + len - strlen("\\\"\",\"cut\":true}"), "\\\"\",\"cut\":true}");
    assert_null(strstr(line, "lost"));
}

static void observations_fall_into_the_bucket_whose_bound_is_not_below_them(void **state)
{
    struct histogram latency, age;
    struct histogram_total total = {0};
    uint64_t all = 0;

    histogram_init(&latency, &histogram_latency);
    histogram_observe(&latency, -5); /* a clock that was set back */
    histogram_observe(&latency, 50); /* bounds are inclusive */
    histogram_observe(&latency, 51);
    histogram_observe(&latency, 60000000);
    histogram_observe(&latency, INT64_C(1) << 40);
    histogram_add_to(&total, &latency);
    histogram_add_to(&total, &latency);
    assert_int_equal(total.counts[0], 4);
    assert_int_equal(total.counts[1], 2);
    assert_int_equal(total.counts[histogram_latency.n - 1], 2);
    assert_int_equal(total.counts[histogram_latency.n], 2);
    for (size_t i = 0; i < ARRAY_SIZE(total.counts); i++)
        all += total.counts[i];
    assert_int_equal(all, 10);
    assert_int_equal(total.sum, 2 * (50 + 51 + UINT64_C(60000000) + (UINT64_C(1) << 40)));

    histogram_init(&age, &histogram_age);
    histogram_observe(&age, -86400); /* expired */
    histogram_observe(&age, 1);
    assert_int_equal(stat_get(&age.counts[0]), 1);
    assert_int_equal(stat_get(&age.counts[1]), 1);
}

static void bounds_of_histograms_ascend(void **state)
{
    const struct histogram_shape *const shapes[] = {&histogram_latency, &histogram_age};

    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        assert_in_range(shapes[i]->n, 1, HISTOGRAM_BOUNDS_MAX);
        for (size_t j = 1; j < shapes[i]->n; j++)
            assert_true(shapes[i]->bounds[j - 1] < shapes[i]->bounds[j]);
    }
}

static void numbers_are_written_in_decimal(void **state)
{
    static const struct {
        int64_t number;
        const char *text;
    } cases[] = {
        {0, "0"},
        {7, "7"},
        {-10, "-10"},
        {1234567890123, "1234567890123"},
        {INT64_MAX, "9223372036854775807"},
        {INT64_MIN, "-9223372036854775808"},
    };
    char out[ENCODE_DECIMAL_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        size_t len = encode_decimal(cases[i].number, out);
        assert_int_equal(len, strlen(cases[i].text));
        assert_memory_equal(out, cases[i].text, len);
    }
}

static void count_waiting(void *arg)
{
    ++*(int *)arg;
}

/* What is on the pipe that stands in for stderr; "" when nothing is. */
static void read_log(int fd, char *out, size_t size)
{
    ssize_t n = read(fd, out, size - 1);
    out[n > 0 ? n : 0] = '\0';
}

static size_t count_lines(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += *text == '\n';
    return n;
}

static void lines_that_may_wait_leave_together_and_in_order(void **state)
{
    int ends[2], told = 0, before = dup(STDERR_FILENO);
    char text[32768];
    size_t in_all = 0;

    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    log_batch_begin(count_waiting, &told);
    log_write_later(LOG_INFO, "one", LOG_INT("n", 1));
    log_write_later(LOG_INFO, "two", LOG_INT("n", 2));
    read_log(ends[0], text, sizeof(text));
    assert_string_equal(text, "");
    assert_int_equal(told, 1);

    log_write(LOG_INFO, "three");
    read_log(ends[0], text, sizeof(text));
    assert_int_equal(count_lines(text), 3);
    assert_true(strstr(text, "one") < strstr(text, "two"));
    assert_true(strstr(text, "two") < strstr(text, "three"));

    /* A full batch goes by itself, in pieces that a pipe takes whole. */
    for (int i = 0; i < 100; i++) {
        log_write_later(LOG_INFO, "many", LOG_INT("n", i));
        read_log(ends[0], text, sizeof(text));
        in_all += count_lines(text);
        assert_true(strlen(text) <= PIPE_BUF);
    }
    assert_true(in_all > 0 && in_all < 100);
    log_batch_flush();
    read_log(ends[0], text, sizeof(text));
    assert_int_equal(in_all + count_lines(text), 100);
    log_write_later(LOG_INFO, "last");
    log_batch_end();
    read_log(ends[0], text, sizeof(text));
    assert_non_null(strstr(text, "last"));
    log_write_later(LOG_INFO, "without a batch nothing waits");
    read_log(ends[0], text, sizeof(text));
    assert_int_equal(count_lines(text), 1);

    assert_int_equal(dup2(before, STDERR_FILENO), STDERR_FILENO);
    (void)close(before);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void only_so_many_lines_of_a_kind_pass_in_a_window(void **state)
{
    struct log_limit limit = {0};
    int64_t now = 5;

    assert_true(log_limit_pass(&limit, 2, now));
    assert_true(log_limit_pass(&limit, 2, now + 1));
    assert_false(log_limit_pass(&limit, 2, now + 2));
    assert_false(log_limit_pass(&limit, 2, now + 3));
    assert_int_equal(log_limit_take(&limit, now + LOG_LIMIT_WINDOW_MS - 1), 0);
    assert_int_equal(log_limit_take(&limit, now + LOG_LIMIT_WINDOW_MS), 2);
    assert_int_equal(log_limit_take(&limit, now + LOG_LIMIT_WINDOW_MS), 0);
    now += LOG_LIMIT_WINDOW_MS;
    assert_true(log_limit_pass(&limit, 2, now));
}

/* A new window must not bury what nobody was told about. */
static void what_was_held_back_is_never_forgotten_untold(void **state)
{
    struct log_limit limit = {0};

    assert_true(log_limit_pass(&limit, 1, 0));
    assert_false(log_limit_pass(&limit, 1, 1));
    assert_false(log_limit_pass(&limit, 1, INT64_C(3) * LOG_LIMIT_WINDOW_MS));
    assert_int_equal(log_limit_take(&limit, INT64_C(3) * LOG_LIMIT_WINDOW_MS), 2);
    assert_true(log_limit_pass(&limit, 1, INT64_C(3) * LOG_LIMIT_WINDOW_MS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buf_keeps_order_and_never_exceeds_its_capacity),
        cmocka_unit_test(pieces_are_kept_for_their_size_up_to_a_limit),
        cmocka_unit_test(more_sizes_of_pieces_than_drawers_get_on),
        cmocka_unit_test(list_members_leave_without_a_search),
        cmocka_unit_test(numbers_are_read_strictly),
        cmocka_unit_test(split_gives_every_piece_once),
        cmocka_unit_test(copies_are_terminated_and_refused_when_too_long),
        cmocka_unit_test(times_are_written_as_the_rfcs_want),
        cmocka_unit_test(bytes_become_hex_and_base64),
        cmocka_unit_test(log_lines_cannot_be_forged_by_a_peer),
        cmocka_unit_test(each_byte_is_escaped_wherever_it_stands),
        cmocka_unit_test(long_log_lines_are_cut_and_stay_well_formed),
        cmocka_unit_test(numbers_are_written_in_decimal),
        cmocka_unit_test(lines_that_may_wait_leave_together_and_in_order),
        cmocka_unit_test(only_so_many_lines_of_a_kind_pass_in_a_window),
        cmocka_unit_test(what_was_held_back_is_never_forgotten_untold),
        cmocka_unit_test(observations_fall_into_the_bucket_whose_bound_is_not_below_them),
        cmocka_unit_test(bounds_of_histograms_ascend),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gateway/http/chunk.h"

static void a_chunk_frames_what_was_appended(void **state)
{
    struct http_chunk chunk;
    struct buf buf;

    buf_init(&buf, 64);
    assert_true(buf_append_str(&buf, STR("head")));
    assert_true(http_chunk_begin(&buf, &chunk));
    assert_true(buf_append_str(&buf, STR("hello, ")));
    assert_true(buf_append_str(&buf, STR("world of chunks")));
    http_chunk_end(&buf, &chunk);
    assert_true(http_chunk_last(&buf));
    assert_true(str_eq(buf_peek(&buf), STR("head00000016\r\nhello, world of chunks\r\n0\r\n\r\n")));
    buf_release(&buf);
}

static void an_empty_chunk_leaves_no_trace(void **state)
{
    struct http_chunk chunk;
    struct buf buf;

    buf_init(&buf, 64);
    assert_true(http_chunk_begin(&buf, &chunk));
    http_chunk_end(&buf, &chunk);
    assert_true(buf_is_empty(&buf));
    assert_true(buf_append_str(&buf, STR("x")));
    assert_true(http_chunk_begin(&buf, &chunk));
    http_chunk_end(&buf, &chunk);
    assert_true(str_eq(buf_peek(&buf), STR("x")));
    buf_release(&buf);
}

static void a_chunk_fits_to_the_last_byte_or_is_not_begun(void **state)
{
    struct http_chunk chunk;
    struct buf buf;

    buf_init(&buf, HTTP_CHUNK_OVERHEAD + 1);
    assert_true(buf_append_str(&buf, STR("ab")));
    assert_false(http_chunk_begin(&buf, &chunk));
    assert_int_equal(buf_len(&buf), 2);
    buf_consume(&buf, 2);
    assert_true(http_chunk_begin(&buf, &chunk));
    assert_true(buf_append_str(&buf, STR("c")));
    http_chunk_end(&buf, &chunk);
    assert_true(str_eq(buf_peek(&buf), STR("00000001\r\nc\r\n")));
    assert_int_equal(buf_space(&buf), 0);
    assert_false(http_chunk_last(&buf));
    buf_release(&buf);
}

/* The buffer makes room by moving what is inside; the mark must still be right. */
static void a_chunk_survives_that_the_buffer_moves(void **state)
{
    struct http_chunk chunk;
    struct buf buf;

    buf_init(&buf, 32);
    assert_true(buf_append_str(&buf, STR("0123456789abcd")));
    buf_consume(&buf, 12);
    assert_true(http_chunk_begin(&buf, &chunk));
    assert_true(buf_append_str(&buf, STR("0123456789ABCDEF")));
    http_chunk_end(&buf, &chunk);
    assert_true(str_eq(buf_peek(&buf), STR("cd00000010\r\n0123456789ABCDEF\r\n")));
    buf_release(&buf);
}

static void sizes_are_hexadecimal(void **state)
{
    static char data[70000];
    struct http_chunk chunk;
    struct buf buf;

    buf_init(&buf, 80000);
    memset(data, 'x', sizeof(data));
    assert_true(http_chunk_begin(&buf, &chunk));
    assert_true(buf_append(&buf, data, sizeof(data)));
    http_chunk_end(&buf, &chunk);
    assert_int_equal(buf_len(&buf), sizeof(data) + HTTP_CHUNK_OVERHEAD);
    assert_true(str_starts(buf_peek(&buf), STR("00011170\r\nxx")));
    buf_release(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chunk_frames_what_was_appended),
        cmocka_unit_test(an_empty_chunk_leaves_no_trace),
        cmocka_unit_test(a_chunk_fits_to_the_last_byte_or_is_not_begun),
        cmocka_unit_test(a_chunk_survives_that_the_buffer_moves),
        cmocka_unit_test(sizes_are_hexadecimal),
    };
    return cmocka_run_group_tests_name("http_chunk", tests, NULL, NULL);
}

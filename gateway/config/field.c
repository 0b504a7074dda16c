/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/config/field.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "gateway/base/mem.h"
#include "gateway/config/config.h"
#include "gateway/config/report.h"
#include "gateway/config/value.h"

static void *field_at(void *base, size_t offset)
{
    return (char *)base + offset;
}

static const void *field_in(const void *base, size_t offset)
{
    return (const char *)base + offset;
}

static const char *field_string(const struct setting *row, const void *base)
{
    return *(const char *const *)field_in(base, row->offset);
}

static const char **field_words(const struct setting *row, const void *base)
{
    return *(const char **const *)field_in(base, row->offset);
}

static struct config_address *field_addresses(const struct setting *row, const void *base)
{
    return *(struct config_address *const *)field_in(base, row->offset);
}

/* --- numbers, whatever their width ------------------------------------------------------------ */

static bool field_is_number(const struct setting *row)
{
    return row->type == SETTING_COUNT || row->type == SETTING_COUNT32 ||
           row->type == SETTING_COUNT64 || row->type == SETTING_SIZE ||
           row->type == SETTING_DURATION || row->type == SETTING_CHOICE ||
           row->type == SETTING_BOOL;
}

static uint64_t field_number(const struct setting *row, const void *base)
{
    const void *at = field_in(base, row->offset);
    int choice;

    if (row->type == SETTING_BOOL)
        return *(const bool *)at;
    if (row->type == SETTING_COUNT32)
        return *(const uint32_t *)at;
    if (row->type == SETTING_COUNT64)
        return *(const uint64_t *)at;
    if (row->type == SETTING_DURATION)
        return (uint64_t) * (const int64_t *)at;
    if (row->type == SETTING_CHOICE) {
        memcpy(&choice, at, sizeof(choice));
        return (uint64_t)choice;
    }
    return *(const size_t *)at;
}

static void field_set_number(const struct setting *row, void *base, uint64_t number)
{
    void *at = field_at(base, row->offset);
    int choice = (int)number;

    if (row->type == SETTING_BOOL)
        *(bool *)at = number != 0;
    else if (row->type == SETTING_COUNT32)
        *(uint32_t *)at = (uint32_t)number;
    else if (row->type == SETTING_COUNT64)
        *(uint64_t *)at = number;
    else if (row->type == SETTING_DURATION)
        *(int64_t *)at = (int64_t)number;
    else if (row->type == SETTING_CHOICE)
        memcpy(at, &choice, sizeof(choice)); /* each enum has an int's size, asserted below */
    else
        *(size_t *)at = (size_t)number;
}

_Static_assert(sizeof(enum config_clients) == sizeof(int) && sizeof(size_t) == sizeof(uint64_t),
               "field_set_number() stores enums as int, and counts without a check of their width");

static void field_format_number(const struct setting *row, uint64_t number,
                                char out[VALUE_TEXT_SIZE])
{
    if (row->type == SETTING_DURATION)
        value_format_duration((int64_t)number, out);
    else if (row->type == SETTING_SIZE)
        value_format_size(number, out);
    else
        (void)snprintf(out, VALUE_TEXT_SIZE, "%" PRIu64, number);
}

void field_copy(const struct setting *from, const void *from_base, const struct setting *to,
                void *to_base)
{
    assert(from->type == to->type && field_is_number(to));
    field_set_number(to, to_base, field_number(from, from_base));
}

/* --- text into fields ------------------------------------------------------------------------- */

static bool PRINTF_LIKE(3, 4)
    field_complain(char complaint[FIELD_COMPLAINT_SIZE], struct str text, const char *format, ...)
{
    char quoted[REPORT_QUOTE_SIZE], why[FIELD_COMPLAINT_SIZE - REPORT_QUOTE_SIZE];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    report_quote(text, quoted);
    (void)snprintf(complaint, FIELD_COMPLAINT_SIZE, "%s %s", quoted, why);
    return false;
}

static bool field_parse_number(const struct setting *row, struct str text, uint64_t *out)
{
    int64_t ms;

    if (row->type == SETTING_SIZE)
        return value_parse_size(text, out);
    if (row->type != SETTING_DURATION)
        return str_to_u64(text, out);
    if (!value_parse_duration(text, &ms))
        return false;
    *out = (uint64_t)ms;
    return true;
}

static bool field_assign_number(const struct setting *row, void *base, struct str text,
                                char complaint[FIELD_COMPLAINT_SIZE])
{
    char min[VALUE_TEXT_SIZE], max[VALUE_TEXT_SIZE];
    uint64_t number;

    if (!field_parse_number(row, text, &number)) {
        const char *form = row->type == SETTING_DURATION
                               ? "a duration like 250ms, 10s, 5m, 12h or 7d"
                           : row->type == SETTING_SIZE ? "a size like 65536, 64KiB or 1MiB"
                                                       : "a number";
        return field_complain(complaint, text, "is not %s", form);
    }
    if (number < row->min || number > row->max) {
        field_format_number(row, row->min, min);
        field_format_number(row, row->max, max);
        return field_complain(complaint, text, "is not between %s and %s", min, max);
    }
    field_set_number(row, base, number);
    return true;
}

static bool field_assign_choice(const struct setting *row, void *base, struct str text,
                                char complaint[FIELD_COMPLAINT_SIZE])
{
    char words[128] = "";
    size_t len = 0;

    for (const struct setting_choice *choice = row->choices; choice->word != NULL; choice++) {
        if (str_eq(text, str_c(choice->word))) {
            field_set_number(row, base, (uint64_t)choice->value);
            return true;
        }
        const char *between = choice == row->choices ? "" : choice[1].word != NULL ? ", " : " or ";
        int added = snprintf(words + len, sizeof(words) - len, "%s%s", between, choice->word);
        if (added > 0 && (size_t)added < sizeof(words) - len)
            len += (size_t)added;
    }
    return field_complain(complaint, text, "is not %s", words);
}

static bool field_assign_bool(const struct setting *row, void *base, struct str text,
                              char complaint[FIELD_COMPLAINT_SIZE])
{
    bool value = str_eq(text, STR("true"));

    if (!value && !str_eq(text, STR("false")))
        return field_complain(complaint, text, "is not true or false");
    field_set_number(row, base, value);
    return true;
}

/* A file's name from where the configuration stands. */
static const char *field_resolve(const struct field_maker *maker, struct str path)
{
    if (path.p[0] == '/')
        return arena_copy(maker->arena, path);
    while (str_starts(path, STR("./")) && path.len > 2)
        path = (struct str){path.p + 2, path.len - 2};
    return arena_concat(maker->arena, maker->folder, path);
}

static const char *field_make_string(const struct setting *row, const struct field_maker *maker,
                                     struct str text)
{
    struct value_redis redis;

    if (row->type == SETTING_FILE ||
        (row->type == SETTING_PROGRAM && memchr(text.p, '/', text.len) != NULL))
        return field_resolve(maker, text);
    if (row->type == SETTING_REDIS && value_parse_redis(text, &redis) == NULL &&
        redis.address.is_unix)
        return arena_concat(maker->arena, STR("unix:"),
                            str_c(field_resolve(maker, redis.address.host)));
    return arena_copy(maker->arena, text);
}

static const char *field_check_string(const struct setting *row, struct str text)
{
    struct value_redis redis;

    if (row->type == SETTING_REDIS)
        return value_parse_redis(text, &redis);
    return row->check != NULL ? row->check(text) : NULL;
}

static bool field_assign_string(const struct setting *row, const struct field_maker *maker,
                                void *base, struct str text, char complaint[FIELD_COMPLAINT_SIZE])
{
    const char *wrong = field_check_string(row, text);

    if (wrong != NULL)
        return field_complain(complaint, text, "%s", wrong);
    *(const char **)field_at(base, row->offset) = field_make_string(row, maker, text);
    return true;
}

static bool field_assign_address(const struct field_maker *maker, struct config_address *address,
                                 struct str text, char complaint[FIELD_COMPLAINT_SIZE])
{
    struct value_address value;

    const char *wrong = value_parse_address(text, &value);
    if (wrong != NULL)
        return field_complain(complaint, text, "%s", wrong);
    const char *host =
        value.is_unix ? field_resolve(maker, value.host) : arena_copy(maker->arena, value.host);
    if (value.is_unix && strlen(host) > VALUE_SOCKET_PATH_MAX)
        return field_complain(complaint, text, "is too long: a socket's path has at most %d bytes",
                              VALUE_SOCKET_PATH_MAX);
    *address = (struct config_address){
        .type = value.is_unix ? CONFIG_ADDRESS_UNIX : CONFIG_ADDRESS_TCP,
        .host = host,
        .port = value.port,
    };
    return true;
}

static bool field_assign_word(const struct setting *row, const struct field_maker *maker,
                              const char **word, struct str text,
                              char complaint[FIELD_COMPLAINT_SIZE])
{
    const char *wrong = row->check(text);

    if (wrong != NULL)
        return field_complain(complaint, text, "%s", wrong);
    *word = arena_copy(maker->arena, text);
    return true;
}

bool field_assign(const struct setting *row, const struct field_maker *maker, void *base,
                  struct field_value value, char complaint[FIELD_COMPLAINT_SIZE])
{
    const char *wrong = value_check_text(value.text);

    if (wrong != NULL)
        return field_complain(complaint, value.text, "%s", wrong);
    switch (row->type) {
    case SETTING_STRING:
    case SETTING_FILE:
    case SETTING_PROGRAM:
    case SETTING_REDIS:
        return field_assign_string(row, maker, base, value.text, complaint);
    case SETTING_BOOL:
        return field_assign_bool(row, base, value.text, complaint);
    case SETTING_CHOICE:
        return field_assign_choice(row, base, value.text, complaint);
    case SETTING_COUNT:
    case SETTING_COUNT32:
    case SETTING_COUNT64:
    case SETTING_SIZE:
    case SETTING_DURATION:
        return field_assign_number(row, base, value.text, complaint);
    case SETTING_ADDRESS:
        return field_assign_address(maker, field_at(base, row->offset), value.text, complaint);
    case SETTING_ADDRESSES:
        return field_assign_address(maker, &field_addresses(row, base)[value.index], value.text,
                                    complaint);
    case SETTING_WORDS:
        return field_assign_word(row, maker, &field_words(row, base)[value.index], value.text,
                                 complaint);
    case SETTING_MAP:
    case SETTING_LIST:
        break;
    }
    return field_complain(complaint, value.text, "is not a map or list");
}

/* --- lists ------------------------------------------------------------------------------------ */

static size_t field_item_size(const struct setting *row)
{
    if (row->type == SETTING_ADDRESSES)
        return sizeof(struct config_address);
    return row->type == SETTING_WORDS ? sizeof(const char *) : row->item_size;
}

void field_make_items(const struct setting *row, struct arena *arena, void *base, size_t n)
{
    void *items = n > 0 ? arena_array(arena, n, field_item_size(row)) : NULL;

    /* Pointers to structs and to pointers are represented alike on every platform that there is a
     * Debian for. */
    memcpy(field_at(base, row->offset), &items, sizeof(items));
    field_set_count(row, base, n);
}

void field_set_count(const struct setting *row, void *base, size_t n)
{
    *(size_t *)field_at(base, row->count_offset) = n;
}

size_t field_count(const struct setting *row, const void *base)
{
    return *(const size_t *)field_in(base, row->count_offset);
}

void *field_item(const struct setting *row, const void *base, size_t index)
{
    char *items;

    memcpy(&items, field_in(base, row->offset), sizeof(items));
    return items + index * row->item_size;
}

/* --- fields as text --------------------------------------------------------------------------- */

/* Only what no YAML reader could take for anything but a string stands without quotes. */
static bool field_is_plain(const char *text)
{
    static const char *const words[] = {"null", "true", "false", "yes", "no",
                                        "on",   "off",  "y",     "n"};

    if (!(*text == '/' || (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z')))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (str_eq_nocase(str_c(text), str_c(words[i])))
            return false;
    }
    return text[strspn(text,
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")] ==
           '\0';
}

static void field_print_text(const char *text, FILE *out)
{
    if (text == NULL || field_is_plain(text)) {
        (void)fputs(text != NULL ? text : "null", out);
        return;
    }
    (void)fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            (void)fputc('\\', out);
        (void)fputc(*text, out);
    }
    (void)fputc('"', out);
}

static void field_print_address(const struct config_address *address, FILE *out)
{
    bool is_ipv6 = strchr(address->host, ':') != NULL;

    if (address->type == CONFIG_ADDRESS_TCP) {
        (void)fprintf(out, "\"%s%s%s:%u\"", is_ipv6 ? "[" : "", address->host, is_ipv6 ? "]" : "",
                      (unsigned)address->port);
        return;
    }
    char *text = mem_printf("unix:%s", address->host);
    field_print_text(text, out);
    mem_free(text);
}

static void field_print_items(const struct setting *row, const void *base, FILE *out)
{
    (void)fputc('[', out);
    for (size_t i = 0; i < field_count(row, base); i++) {
        (void)fputs(i > 0 ? ", " : "", out);
        if (row->type == SETTING_WORDS)
            field_print_text(field_words(row, base)[i], out);
        else
            field_print_address(&field_addresses(row, base)[i], out);
    }
    (void)fputc(']', out);
}

static void field_print_number(const struct setting *row, uint64_t number, FILE *out)
{
    const struct setting_choice *choice = row->choices;
    char text[VALUE_TEXT_SIZE];

    if (row->type == SETTING_BOOL) {
        (void)fputs(number != 0 ? "true" : "false", out);
    } else if (row->type == SETTING_CHOICE) {
        while (choice->word != NULL && (uint64_t)choice->value != number)
            choice++;
        assert(choice->word != NULL);
        (void)fputs(choice->word, out);
    } else {
        field_format_number(row, number, text);
        (void)fputs(text, out);
    }
}

void field_print(const struct setting *row, const void *base, FILE *out)
{
    if (field_is_number(row))
        field_print_number(row, field_number(row, base), out);
    else if (row->type == SETTING_ADDRESS)
        field_print_address(field_in(base, row->offset), out);
    else if (row->type == SETTING_ADDRESSES || row->type == SETTING_WORDS)
        field_print_items(row, base, out);
    else
        field_print_text(field_string(row, base), out);
}

/* Two values are the same when they are written alike: there is one way to write each. */
bool field_equal(const struct setting *row, const void *a, const void *b)
{
    char *texts[2] = {NULL, NULL};
    size_t sizes[2];

    for (size_t i = 0; i < 2; i++) {
        FILE *out = open_memstream(&texts[i], &sizes[i]);
        if (out == NULL)
            abort();
        field_print(row, i == 0 ? a : b, out);
        (void)fclose(out);
    }
    bool equal = sizes[0] == sizes[1] && memcmp(texts[0], texts[1], sizes[0]) == 0;
    mem_free(texts[0]);
    mem_free(texts[1]);
    return equal;
}

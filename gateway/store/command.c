/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/command.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "gateway/base/mem.h"

/* "$" of the length in decimal and two line ends. */
enum { BULK_OVERHEAD = 1 + 20 + 4 };

void command_init(struct command *command)
{
    command->n_args = 0;
    command->n_pieces = 0;
    command->scratch_used = 0;
}

static void command_put(struct command *command, struct str text, bool begins)
{
    assert(command->n_pieces < COMMAND_PIECES_MAX);
    command->pieces[command->n_pieces++] = (struct command_piece){text, begins};
}

void command_add(struct command *command, struct str text)
{
    command_put(command, text, true);
    command->n_args++;
}

void command_extend(struct command *command, struct str text)
{
    assert(command->n_args > 0);
    command_put(command, text, false);
}

void command_add_int(struct command *command, int64_t number)
{
    char *text = command->scratch + command->scratch_used;
    size_t room = sizeof(command->scratch) - command->scratch_used;
    int len = snprintf(text, room, "%" PRId64, number);

    assert(len > 0 && (size_t)len < room);
    command->scratch_used += (size_t)len;
    command_add(command, (struct str){text, (size_t)len});
}

static char *write_number(char *out, size_t number)
{
    char digits[20];
    size_t n = 0;

    do
        digits[n++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    while (n > 0)
        *out++ = digits[--n];
    return out;
}

static char *write_line_end(char *out)
{
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

/* Writes the argument that begins at piece *i, and moves *i behind it. */
static char *write_argument(const struct command *command, size_t *i, char *out)
{
    size_t end = *i, len = 0;

    do
        len += command->pieces[end++].text.len;
    while (end < command->n_pieces && !command->pieces[end].begins);
    *out++ = '$';
    out = write_line_end(write_number(out, len));
    for (; *i < end; ++*i) {
        struct str text = command->pieces[*i].text;
        if (text.len > 0)
            memcpy(out, text.p, text.len);
        out += text.len;
    }
    return write_line_end(out);
}

char *command_write(const struct command *command, size_t *out_len)
{
    size_t size = 1;

    for (size_t i = 0; i < command->n_pieces; i++)
        size += command->pieces[i].text.len;
    size += command->n_args * BULK_OVERHEAD;

    char *text = mem_zalloc(size), *end = text;
    for (size_t i = 0; i < command->n_pieces;)
        end = write_argument(command, &i, end);
    *out_len = (size_t)(end - text);
    return text;
}

size_t command_write_head(size_t n_args, char out[COMMAND_HEAD_SIZE])
{
    out[0] = '*';
    return (size_t)(write_line_end(write_number(out + 1, n_args)) - out);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/* Hashes as Redis gives them: names and values, with a byte 0xff behind each. A record or denial
 * that is understood is written as it was read. */
#include <stdint.h>
#include <stdlib.h>

#include "gateway/store/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t fields_of(const struct command *command, struct field *out)
{
    size_t n = 0;

    for (size_t i = 1; i + 1 < command->n_pieces; i += 2)
        out[n++] = (struct field){command->pieces[i].text, command->pieces[i + 1].text};
    return n;
}

static void check_record(const struct field *fields, size_t n)
{
    struct field again[CODEC_FIELDS_MAX];
    struct device_record first, second;
    struct codec_scratch scratch;
    struct command command;
    const char *wrong;

    if (!codec_read_record(fields, n, &first, &wrong) || first.version > INT64_MAX ||
        first.generation > INT64_MAX)
        return;
    command_init(&command);
    codec_add_record(&first, &scratch, &command);
    if (!codec_read_record(again, fields_of(&command, again), &second, &wrong) ||
        second.version != first.version || second.n_leases != first.n_leases ||
        strcmp(second.pending.pem, first.pending.pem) != 0)
        abort();
}

static void check_denial(const struct field *fields, size_t n)
{
    struct field again[CODEC_FIELDS_MAX];
    struct denial first, second;
    struct command command;
    const char *wrong;

    if (!codec_read_denial(fields, n, &first, &wrong))
        return;
    command_init(&command);
    codec_add_denial(&first, &command);
    if (!codec_read_denial(again, fields_of(&command, again), &second, &wrong) ||
        strcmp(second.reason, first.reason) != 0 || strcmp(second.origin, first.origin) != 0 ||
        strcmp(second.device, first.device) != 0 || second.at_ms != first.at_ms ||
        second.until_ms != first.until_ms)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str rest = {(const char *)data, size}, name, value;
    struct field fields[CODEC_FIELDS_MAX];
    size_t n = 0;

    while (n < CODEC_FIELDS_MAX && str_split(&rest, (char)0xff, &name) &&
           str_split(&rest, (char)0xff, &value))
        fields[n++] = (struct field){name, value};
    check_record(fields, n);
    check_denial(fields, n);
    return 0;
}

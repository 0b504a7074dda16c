/* SPDX-License-Identifier: BSD-2-Clause */
/* Responses, twice: in one piece, and in pieces whose sizes the first byte of the input chooses.
 * Both must give the same messages, bodies and end. */
#include <stdint.h>
#include <stdlib.h>

#include "tests/fuzz/http_messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0)
        http_messages_compare(HTTP_PARSER_RESPONSE, (struct str){(const char *)data + 1, size - 1},
                              data[0]);
    return 0;
}

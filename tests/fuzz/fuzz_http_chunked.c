/* SPDX-License-Identifier: BSD-2-Clause */
/* Chunked bodies: the input stands behind a head that announces one, so that nothing is spent on
 * finding heads. In one piece and in others, as the requests of fuzz_http_request.c. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/mem.h"
#include "tests/fuzz/http_messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char head[] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t head_len = sizeof(head) - 1;

    if (size == 0)
        return 0;
    char *text = mem_array(head_len + size - 1, 1);
    memcpy(text, head, head_len);
    memcpy(text + head_len, data + 1, size - 1);
    http_messages_compare(HTTP_PARSER_REQUEST, (struct str){text, head_len + size - 1}, data[0]);
    mem_free(text);
    return 0;
}

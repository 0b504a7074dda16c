/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/client_hello.h"

#include <string.h>

#include "gateway/tls/handshake.h"

/* RFC 6066, 3: a list of names, of which there is one, of type host_name (0). */
static void read_server_name(const unsigned char *data, size_t len,
                             char out[HANDSHAKE_NAME_MAX + 1])
{
    enum { HEAD = 5 };

    if (len < HEAD || data[2] != 0)
        return;
    size_t list_len = (size_t)data[0] << 8 | data[1], name_len = (size_t)data[3] << 8 | data[4];
    if (list_len != len - 2 || name_len != len - HEAD || name_len > HANDSHAKE_NAME_MAX ||
        memchr(data + HEAD, 0, name_len) != NULL)
        return;
    for (size_t i = 0; i < name_len; i++) {
        char c = (char)data[HEAD + i];
        out[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    out[name_len] = '\0';
}

void client_hello_read(SSL *ssl)
{
    struct handshake_notes *notes = handshake_notes(ssl);
    const unsigned char *data;
    size_t len;

    notes->server_name[0] = '\0';
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &data, &len) == 1)
        read_server_name(data, len, notes->server_name);
    /* RFC 8446, 4.2.9: a server does not send a ticket to a client that names no mode with it can
     * be used. Stock agents do not, and they connect anew for each request. */
    notes->can_resume = SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk_kex_modes, &data, &len) == 1;
}

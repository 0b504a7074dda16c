/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/openssl_error.h"

#include <stdio.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

/* What strangers and misconfigured devices cause every day, so that operators need not know
 * OpenSSL's wording. */
static const struct {
    int reason;
    const char *text;
} ssl_texts[] = {
    {SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, "the client offered no certificate"},
    {SSL_R_NO_SHARED_CIPHER, "the client offers no cipher that we accept"},
    {SSL_R_UNSUPPORTED_PROTOCOL, "the client speaks only TLS versions that are too old"},
    {SSL_R_UNEXPECTED_EOF_WHILE_READING, "the peer closed the connection without close_notify"},
    {SSL_R_HTTP_REQUEST, "the client speaks plain HTTP, not TLS"},
    {SSL_R_WRONG_VERSION_NUMBER, "what the client sent is not TLS"},
    {SSL_R_BAD_SIGNATURE, "the client could not prove that it holds its certificate's key"},
};

static const char *ssl_text(unsigned long code)
{
    if (ERR_GET_LIB(code) != ERR_LIB_SSL)
        return NULL;
    for (size_t i = 0; i < ARRAY_SIZE(ssl_texts); i++)
        if (ssl_texts[i].reason == ERR_GET_REASON(code))
            return ssl_texts[i].text;
    return NULL;
}

static void write_text(unsigned long code, char *out, size_t size)
{
    const char *known = ssl_text(code);

    if (known == NULL && !ERR_SYSTEM_ERROR(code))
        known = ERR_reason_error_string(code);
    if (known != NULL)
        str_copy_cut(out, size, str_c(known));
    else if (code != 0)
        ERR_error_string_n(code, out, size);
    else
        str_copy_cut(out, size, STR("unknown TLS error"));
}

/* Alerts are numbered from SSL_AD_REASON_OFFSET on: the peer said this, not we. */
static bool is_alert(unsigned long code)
{
    return ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) >= SSL_AD_REASON_OFFSET;
}

enum stream_failure openssl_error_kind(void)
{
    unsigned long code = ERR_peek_error();

    if (is_alert(code))
        return STREAM_FAILURE_ALERT;
    if (ERR_GET_LIB(code) == ERR_LIB_SSL &&
        ERR_GET_REASON(code) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        return STREAM_FAILURE_NO_CERTIFICATE;
    return STREAM_FAILURE_PROTOCOL;
}

void openssl_error_take(char *out, size_t size)
{
    unsigned long code = ERR_peek_error();
    char text[160];

    write_text(code, text, sizeof(text));
    ERR_clear_error();
    if (is_alert(code))
        (void)snprintf(out, size, "the peer refused: %s", text);
    else
        str_copy_cut(out, size, str_c(text));
}

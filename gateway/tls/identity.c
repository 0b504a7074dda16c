/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/identity.h"

#include <assert.h>
#include <string.h>
#include <time.h>

#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "gateway/base/encode.h"
#include "gateway/base/mem.h"
#include "gateway/tls/digest.h"
#include "gateway/tls/spki.h"
#include "policy/record.h"

/* One attribute's value in UTF-8, with no control characters in it, NUL included. */
struct text {
    char p[LABEL_MAX + 1];
    size_t len;
};

static_assert(LABEL_MAX >= DEVICE_NAME_MAX, "struct text holds both");

/* Four bytes a character in the widest type; what is longer need not be converted to be refused. */
enum { ENCODED_TEXT_MAX = 4 * LABEL_MAX };

static bool is_plain_ascii(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (data[i] < 0x20 || data[i] > 0x7e)
            return false;
    return true;
}

/* For valid UTF-8: C0, DEL, and C1, which is C2 80 to C2 9F. */
static bool has_controls(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] < 0x20 || data[i] == 0x7f)
            return true;
        if (data[i] == 0xc2 && i + 1 < len && data[i + 1] < 0xa0)
            return true;
    }
    return false;
}

static bool text_set(struct text *out, const uint8_t *data, size_t len)
{
    out->len = len;
    return str_copy(out->p, sizeof(out->p), (struct str){(const char *)data, len});
}

/* False when it does not fit, is not what its type says, or holds control characters. */
static bool text_read(const ASN1_STRING *string, struct text *out)
{
    const uint8_t *data = ASN1_STRING_get0_data(string);
    size_t len = (size_t)ASN1_STRING_length(string);
    int type = ASN1_STRING_type(string);
    uint8_t *utf8 = NULL;

    if (len > ENCODED_TEXT_MAX)
        return false;
    if ((type == V_ASN1_UTF8STRING || type == V_ASN1_PRINTABLESTRING || type == V_ASN1_IA5STRING) &&
        is_plain_ascii(data, len))
        return text_set(out, data, len);

    int utf8_len = ASN1_STRING_to_UTF8(&utf8, string);
    if (utf8_len < 0) {
        ERR_clear_error();
        return false;
    }
    bool good = !has_controls(utf8, (size_t)utf8_len) && text_set(out, utf8, (size_t)utf8_len);
    OPENSSL_free(utf8);
    return good;
}

struct subject {
    size_t n_common_names;
    const ASN1_STRING *common_name;
    const ASN1_STRING *unit; /* the first; NULL: none */
    bool production;
};

static void subject_add(struct subject *subject, int attribute, const ASN1_STRING *value)
{
    struct text text;

    if (attribute == NID_commonName) {
        subject->common_name = value;
        subject->n_common_names++;
    } else if (attribute == NID_organizationalUnitName && subject->unit == NULL) {
        subject->unit = value;
    } else if (attribute == NID_businessCategory && text_read(value, &text)) {
        subject->production |= str_eq((struct str){text.p, text.len}, STR("production"));
    }
}

static bool read_name(const X509 *certificate, struct credentials *out)
{
    const X509_NAME *name = X509_get_subject_name(certificate);
    struct subject subject = {0};
    struct text text;

    for (int i = 0; i < X509_NAME_entry_count(name); i++) {
        const X509_NAME_ENTRY *entry = X509_NAME_get_entry(name, i);
        int attribute = OBJ_obj2nid(X509_NAME_ENTRY_get_object(entry));
        subject_add(&subject, attribute, X509_NAME_ENTRY_get_data(entry));
    }
    out->production = subject.production;
    if (subject.unit != NULL) {
        if (!text_read(subject.unit, &text))
            return false;
        memcpy(out->factory, text.p, text.len + 1);
    }
    if (subject.n_common_names != 1 || !text_read(subject.common_name, &text) ||
        !device_name_is_valid(text.p, text.len))
        return false;
    memcpy(out->device, text.p, text.len + 1);
    return true;
}

static bool is_ca(X509 *certificate)
{
    uint32_t flags = X509_get_extension_flags(certificate);

    /* Without the extension, X509_get_key_usage() has all bits set. */
    return (flags & EXFLAG_CA) != 0 || ((flags & EXFLAG_KUSAGE) != 0 &&
                                        (X509_get_key_usage(certificate) & KU_KEY_CERT_SIGN) != 0);
}

static bool read_serial(const X509 *certificate, struct stream_peer *out)
{
    const ASN1_INTEGER *serial = X509_get0_serialNumber(certificate);
    size_t len = (size_t)ASN1_STRING_length(serial);
    char *p = out->serial;

    if (2 * len + 2 > sizeof(out->serial))
        return false;
    if (ASN1_STRING_type(serial) == V_ASN1_NEG_INTEGER)
        *p++ = '-';
    encode_hex(ASN1_STRING_get0_data(serial), len, p);
    return len > 0;
}

bool identity_time_ms(const ASN1_TIME *time, int64_t *out_ms)
{
    struct tm parts;

    if (time == NULL || ASN1_TIME_to_tm(time, &parts) != 1)
        return false;
    *out_ms = (int64_t)timegm(&parts) * 1000;
    return true;
}

/* Both texts in one piece, as long as they are. */
static bool read_encoding(const X509 *certificate, const char *pem, struct stream_peer *out)
{
    CLEANUP(mem_free_at) uint8_t *der = NULL;
    uint8_t *p;
    int encoded = i2d_X509(certificate, NULL);

    if (encoded <= 0)
        return false;
    size_t len = (size_t)encoded, pem_size = strlen(pem) + 1;
    p = der = mem_try_alloc(len);
    out->texts = mem_try_alloc(pem_size + ENCODE_BASE64_SIZE(len) + 2);
    if (der == NULL || out->texts == NULL || i2d_X509(certificate, &p) != encoded)
        return false;

    digest_sha256(der, len, &out->credentials.certificate);
    char *text = out->texts;
    memcpy(text, pem, pem_size);
    out->credentials.key.pem = text;
    out->client_cert = text += pem_size;
    *text++ = ':';
    text += encode_base64(der, len, text);
    memcpy(text, ":", 2);
    return true;
}

bool identity_read(X509 *certificate, struct stream_peer *out)
{
    struct credentials *credentials = &out->credentials;
    struct pubkey key = {.pem = ""};
    bool key_allowed = spki_describe(X509_get_X509_PUBKEY(certificate), &key) == PUBKEY_OK;

    credentials->key.id = key.id;
    if (!read_encoding(certificate, key.pem, out)) {
        identity_clear(out);
        return false;
    }
    /* No time at all is as good as long ago; 0 would mean "never". */
    if (!identity_time_ms(X509_get0_notAfter(certificate), &credentials->certificate_expires_ms) ||
        credentials->certificate_expires_ms <= 0)
        credentials->certificate_expires_ms = 1;

    bool named = read_serial(certificate, out) && read_name(certificate, credentials);
    if (is_ca(certificate))
        out->identity = PEER_IS_CA;
    else if (!key_allowed)
        out->identity = PEER_KEY_NOT_ALLOWED;
    else
        out->identity = named ? PEER_IDENTIFIED : PEER_NAME_INVALID;
    return true;
}

void identity_clear(struct stream_peer *peer)
{
    mem_free(peer->texts);
    peer->texts = NULL;
    peer->client_cert = peer->credentials.key.pem = NULL;
}

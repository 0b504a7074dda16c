/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/resumption.h"

#include <stdatomic.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/mem.h"
#include "gateway/tls/identity.h"
#include "gateway/tls/session_store.h"

/* Immutable but for the flag. Each SSL_SESSION that descends from the full handshake holds a
 * reference (its ex data), and each connection that knows it. */
struct session_facts {
    atomic_uint refs;
    atomic_bool forgotten;
    size_t issuer;
    int64_t until_ms;
    struct stream_peer peer; /* owns its texts */
    char server_name[];      /* SNI of the full handshake */
};

struct resumption {
    struct session_store *store; /* owned; NULL: off */
    int64_t lifetime_ms;
};

/* Drawn once, by resumption_init(). */
static int facts_index = -1;
static int resumption_index = -1;

static struct session_facts *session_facts_new(const struct session_origin *origin,
                                               int64_t until_ms, const char *server_name)
{
    size_t size = strlen(server_name) + 1;
    struct session_facts *facts = mem_zalloc(sizeof(*facts) + size);

    atomic_init(&facts->refs, 1);
    atomic_init(&facts->forgotten, false);
    facts->issuer = origin->issuer;
    facts->until_ms = until_ms < origin->not_after_ms ? until_ms : origin->not_after_ms;
    facts->peer = *origin->peer;
    origin->peer->texts = NULL;
    memcpy(facts->server_name, server_name, size);
    return facts;
}

static struct session_facts *session_facts_ref(struct session_facts *facts)
{
    atomic_fetch_add_explicit(&facts->refs, 1, memory_order_relaxed);
    return facts;
}

void session_facts_unref(struct session_facts **facts)
{
    if (*facts != NULL &&
        atomic_fetch_sub_explicit(&(*facts)->refs, 1, memory_order_acq_rel) == 1) {
        identity_clear(&(*facts)->peer);
        mem_free(*facts);
    }
    *facts = NULL;
}

/* OpenSSL copies a session for the second and later tickets of one handshake. */
static int on_session_dup(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, void **pointer, int index,
                          long argl, void *argp)
{
    if (*pointer != NULL)
        session_facts_ref(*pointer);
    return 1;
}

static void on_session_free(void *parent, void *pointer, CRYPTO_EX_DATA *data, int index, long argl,
                            void *argp)
{
    struct session_facts *facts = pointer;

    session_facts_unref(&facts);
}

void resumption_init(void)
{
    if (facts_index >= 0)
        return;
    facts_index = SSL_SESSION_get_ex_new_index(0, NULL, NULL, on_session_dup, on_session_free);
    resumption_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static struct resumption *find_resumption(const SSL_CTX *context)
{
    return SSL_CTX_get_ex_data(context, resumption_index);
}

static bool is_resumable(const SSL_SESSION *session, const struct handshake_notes *notes)
{
    const struct session_facts *facts = SSL_SESSION_get_ex_data(session, facts_index);

    return facts != NULL && !atomic_load(&facts->forgotten) && clock_wall_ms() < facts->until_ms &&
           strcmp(facts->server_name, notes->server_name) == 0;
}

/* Of another SNI, a session is only not for this connection; it stays. */
static SSL_SESSION *on_lookup(SSL *ssl, const unsigned char *id, int id_len, int *copy)
{
    struct resumption *resumption = find_resumption(SSL_get_SSL_CTX(ssl));
    SSL_SESSION *session = session_store_get(resumption->store, id, (size_t)id_len);

    *copy = 0; /* the reference was taken under the store's lock */
    if (session != NULL && !is_resumable(session, handshake_notes(ssl))) {
        SSL_SESSION_free(session);
        session = NULL;
    }
    return session;
}

/* A ticket's session that OpenSSL copied from another one has them already. */
static bool attach_facts(SSL_SESSION *session, struct session_facts *facts)
{
    if (SSL_SESSION_get_ex_data(session, facts_index) != NULL)
        return true;
    session_facts_ref(facts);
    if (SSL_SESSION_set_ex_data(session, facts_index, facts) == 1)
        return true;
    session_facts_unref(&facts);
    return false;
}

/* Runs at the end of a TLS 1.2 handshake, too, when nothing is allowed yet: resumption_allow()
 * stores that one itself. The result says that no reference was kept of the one that OpenSSL
 * offers. */
static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    const struct handshake_notes *notes = handshake_notes(ssl);

    if (notes->facts != NULL && attach_facts(session, notes->facts))
        session_store_put(find_resumption(SSL_get_SSL_CTX(ssl))->store, session);
    return 0;
}

/* After a fatal alert. */
static void on_remove_session(SSL_CTX *context, SSL_SESSION *session)
{
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(session, &len);

    if (len > 0)
        session_store_remove(find_resumption(context)->store, id, len);
}

struct resumption *resumption_new(size_t capacity, int64_t lifetime_ms)
{
    struct resumption *resumption = mem_new(struct resumption);

    if (capacity > 0 && lifetime_ms > 0)
        resumption->store = session_store_new(capacity);
    resumption->lifetime_ms = lifetime_ms;
    return resumption;
}

void resumption_free(struct resumption **resumption)
{
    if (*resumption == NULL)
        return;
    session_store_free(&(*resumption)->store);
    mem_free(*resumption);
    *resumption = NULL;
}

void resumption_install(struct resumption *resumption, SSL_CTX *context)
{
    /* No ticket by itself: the one that there may be is sent by resumption_allow(). */
    (void)SSL_CTX_set_num_tickets(context, 0);
    if (resumption->store == NULL) {
        (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        return;
    }
    (void)SSL_CTX_set_ex_data(context, resumption_index, resumption);
    (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_SERVER |
                                                      SSL_SESS_CACHE_NO_INTERNAL |
                                                      SSL_SESS_CACHE_NO_AUTO_CLEAR);
    (void)SSL_CTX_set_timeout(context, (long)((resumption->lifetime_ms + 999) / 1000));
    SSL_CTX_sess_set_get_cb(context, on_lookup);
    SSL_CTX_sess_set_new_cb(context, on_new_session);
    SSL_CTX_sess_set_remove_cb(context, on_remove_session);
}

/* Sent at once as far as the socket takes it; the rest goes out with the next read or write. */
static void send_ticket(SSL *ssl)
{
    if (SSL_new_session_ticket(ssl) == 1)
        (void)SSL_do_handshake(ssl);
}

void resumption_allow(struct resumption *resumption, SSL *ssl, const struct session_origin *origin)
{
    struct handshake_notes *notes = handshake_notes(ssl);
    int64_t now_ms = clock_wall_ms();

    if (resumption->store == NULL)
        return;
    if (!SSL_session_reused(ssl)) {
        if (origin->not_after_ms <= now_ms || notes->facts != NULL)
            return;
        notes->facts =
            session_facts_new(origin, now_ms + resumption->lifetime_ms, notes->server_name);
    }
    if (SSL_version(ssl) == TLS1_3_VERSION && notes->can_resume)
        send_ticket(ssl);
    else if (SSL_version(ssl) != TLS1_3_VERSION && !SSL_session_reused(ssl))
        (void)on_new_session(ssl, SSL_get_session(ssl));
}

bool resumption_recall(SSL *ssl, size_t *out_issuer, struct stream_peer *out)
{
    struct session_facts *facts = SSL_SESSION_get_ex_data(SSL_get_session(ssl), facts_index);

    if (facts == NULL)
        return false;
    handshake_notes(ssl)->facts = session_facts_ref(facts);
    *out_issuer = facts->issuer;
    *out = facts->peer;
    out->texts = NULL;
    return true;
}

void resumption_forget(struct resumption *resumption, SSL *ssl)
{
    struct session_facts *facts = handshake_notes(ssl)->facts;
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(SSL_get_session(ssl), &len);

    if (facts == NULL)
        return;
    atomic_store(&facts->forgotten, true);
    if (len > 0)
        session_store_remove(resumption->store, id, len);
}

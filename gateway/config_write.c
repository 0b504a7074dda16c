/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/config_write.h"

#include <jansson.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/mem.h"
#include "gateway/tls/pubkey.h"

/* --- the named key ---------------------------------------------------------------------------- */

static void free_json(json_t **json)
{
    json_decref(*json);
}

static bool body_claims_json(const struct http_head *head)
{
    const struct http_field *type = http_head_find(head, STR("Content-Type"));

    if (type == NULL)
        return true;
    struct str rest = type->value, media;
    if (!str_split(&rest, ';', &media))
        return false;
    media = str_trim(media);
    return str_eq_nocase(media, STR("application/json")) ||
           (media.len > 5 && str_eq_nocase((struct str){media.p + media.len - 5, 5}, STR("+json")));
}

static bool body_looks_like_json(struct str body)
{
    for (size_t i = 0; i < body.len; i++) {
        if (memchr(" \t\r\n", body.p[i], 4) == NULL)
            return body.p[i] == '{' || body.p[i] == '[' || (unsigned char)body.p[i] >= 0x80;
    }
    return false;
}

static enum reason named_by_body(const struct http_head *head, struct str body,
                                 struct digest *out_key)
{
    if (body.len == 0)
        return REASON_OK;
    /* Whatever a backend might take for JSON must be JSON to us too: one reading for both. */
    if (!body_claims_json(head) && !body_looks_like_json(body))
        return REASON_OK;

    CLEANUP(free_json)
    json_t *json = json_loadb(body.p, body.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (json == NULL)
        return REASON_CONFIG_BODY_INVALID;
    json_t *key = json_object_get(json, "public-key");
    if (key == NULL || json_is_null(key) || (json_is_string(key) && json_string_length(key) == 0))
        return REASON_OK;

    struct pubkey parsed;
    if (!json_is_string(key) ||
        pubkey_parse_pem((struct str){json_string_value(key), json_string_length(key)}, &parsed) !=
            PUBKEY_OK)
        return REASON_CONFIG_KEY_INVALID;
    *out_key = parsed.id;
    return REASON_OK;
}

static enum reason named_by_header(const struct http_head *head, struct digest *out_key)
{
    const struct http_field *field = http_head_find(head, STR("Device-Key"));

    if (field == NULL)
        return REASON_OK;
    if (http_head_count(head, STR("Device-Key")) != 1 ||
        !digest_is_valid(field->value.p, field->value.len) ||
        !str_copy(out_key->hex, sizeof(out_key->hex), field->value))
        return REASON_CONFIG_KEY_INVALID;
    return REASON_OK;
}

static bool body_is_encoded(const struct http_head *head)
{
    const struct http_field *coding = http_head_find(head, STR("Content-Encoding"));

    return coding != NULL && (http_head_count(head, STR("Content-Encoding")) != 1 ||
                              !str_eq_nocase(coding->value, STR("identity")));
}

enum reason config_write_named_key(const struct http_head *head, struct str body,
                                   struct digest *out_key)
{
    struct digest by_header = {0}, by_body = {0};

    if (body_is_encoded(head))
        return REASON_CONFIG_BODY_ENCODED;
    enum reason reason = named_by_header(head, &by_header);
    if (reason == REASON_OK)
        reason = named_by_body(head, body, &by_body);
    if (reason != REASON_OK)
        return reason;
    if (digest_is_set(&by_header) && digest_is_set(&by_body) && !digest_equal(&by_header, &by_body))
        return REASON_CONFIG_KEY_CONFLICT;
    *out_key = digest_is_set(&by_header) ? by_header : by_body;
    return REASON_OK;
}

/* --- the lease -------------------------------------------------------------------------------- */

static void decide_begin(const struct store_view *view, struct decision *out, void *arg)
{
    const struct config_write_claim *claim = arg;
    /* That the device is denied does not keep operators from writing its configuration. */
    bool is_device = claim->writer == CONFIG_WRITER_DEVICE;

    config_write_begin(
        &(struct config_write){
            .record = &view->record,
            .writer = claim->writer,
            .writer_key = claim->writer_key,
            .denied = is_device ? view->denied : (struct deny_flags){0},
            .key = claim->named,
            .token = claim->token,
            .lease_ms = claim->lease_ms,
            .now_ms = view->now_ms,
        },
        out);
}

static void on_begun(enum store_result result, const struct store_view *view,
                     const struct decision *decision, void *arg)
{
    struct config_write_claim *claim = arg;

    claim->transition = NULL;
    claim->done(result, view, decision, claim->arg);
}

void config_write_start(struct worker *worker, struct config_write_claim *claim)
{
    const struct store_query query = {
        .device = claim->device,
        .key = claim->writer_key.hex,
        .certificate = claim->writer_certificate.hex,
        .certificate_twin = claim->writer_twin.hex,
    };
    uint8_t token[LEASE_TOKEN_LEN / 2];

    worker_random(worker, token, sizeof(token));
    encode_hex(token, sizeof(token), claim->token);
    /* The lease counts from the store's clock when the record is read, which is not before now: our
     * deadline is never later than the lease's end. */
    claim->deadline_ms = clock_monotonic_ms() + claim->lease_ms;
    claim->transition = transition_start(worker->store, &query, decide_begin, on_begun, claim);
}

void config_write_cancel(struct config_write_claim *claim)
{
    transition_cancel(&claim->transition);
}

enum { RELEASE_TRIES = 3 };

/* A lease on its way back. Owned by the worker's list. */
struct release {
    struct list link;
    struct worker *worker; /* borrowed: outlives the list */
    struct transition *transition;
    struct config_write_claim claim;
    int tries;
};

static void release_free(struct release *release)
{
    list_remove(&release->link);
    transition_cancel(&release->transition);
    mem_free(release);
}

static void decide_end(const struct store_view *view, struct decision *out, void *arg)
{
    const struct release *release = arg;

    config_write_end(&view->record, release->claim.token, view->now_ms, out);
}

static void on_released(enum store_result result, const struct store_view *view,
                        const struct decision *decision, void *arg);

static void release_try(struct release *release)
{
    /* The lease's commit may have been given up before it was answered: not to be overtaken. */
    const struct store_query query = {.device = release->claim.device, .after_commits = true};

    release->tries++;
    release->transition =
        transition_start(release->worker->store, &query, decide_end, on_released, release);
}

static void on_released(enum store_result result, const struct store_view *view,
                        const struct decision *decision, void *arg)
{
    struct release *release = arg;

    (void)view;
    (void)decision;
    release->transition = NULL;
    bool over = result == STORE_OK || result == STORE_INVALID || release->tries >= RELEASE_TRIES ||
                clock_monotonic_ms() >= release->claim.deadline_ms;
    if (over)
        release_free(release);
    else
        release_try(release);
}

void config_write_release(struct worker *worker, const struct config_write_claim *claim)
{
    struct release *release = mem_new(struct release);

    release->worker = worker;
    release->claim = *claim;
    list_push_back(&worker->leases, &release->link);
    release_try(release);
}

void config_write_release_cancel_all(struct worker *worker)
{
    list_for_each_safe (link, following, &worker->leases)
        release_free(list_entry(link, struct release, link));
}

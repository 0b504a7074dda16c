/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/event_json.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/mem.h"
#include "policy/reason.h"

/* Jansson fails here only when memory is out. */
static json_t *json_or_die(json_t *value)
{
    if (value == NULL)
        abort();
    return value;
}

static json_t *json_text(const char *text)
{
    json_t *value = json_string(text);

    if (value != NULL)
        return value;
    size_t len = strlen(text), n = 0;
    char *utf8 = mem_array(2 * len + 1, 1);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x80)
            utf8[n++] = (char)(0xc0 | (c >> 6));
        utf8[n++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    value = json_stringn(utf8, n);
    mem_free(utf8);
    return json_or_die(value);
}

static void put(json_t *object, const char *name, json_t *value)
{
    if (json_object_set_new(object, name, json_or_die(value)) != 0)
        abort();
}

static void put_text(json_t *object, const char *name, const char *text)
{
    put(object, name, json_text(text));
}

static void put_known(json_t *object, const char *name, const char *text)
{
    if (text[0] != '\0')
        put_text(object, name, text);
}

static void describe_pubkey_change(const struct device_event *event, const char *time,
                                   json_t *object)
{
    json_t *rotation = json_or_die(json_object());

    put_text(object, "Uuid", event->device);
    put_text(object, "DeviceGroupId", event->group);
    put_text(object, "Time", time);
    put_text(object, "NewPubKey", event->new_key.pem);
    put_text(object, "OldPubKey", event->old_key.pem);
    put_text(rotation, "id", event->rotation_id);
    put(rotation, "generation", json_integer((json_int_t)event->generation));
    put_text(rotation, "new_key", event->new_key.id.hex);
    put_text(rotation, "old_key", event->old_key.id.hex);
    put(object, "rotation", rotation);
}

static void describe_other(const struct device_event *event, const char *time, json_t *object)
{
    put_known(object, "device", event->device);
    put_text(object, "time", time);
    put_known(object, "group", event->group);
    if (event->type == EVENT_DEVICE_GROUP_CHANGED) {
        /* Both, also when one is no group. */
        put_text(object, "group", event->group);
        put_text(object, "old_group", event->old_group);
    }
    if (event->generation > 0)
        put(object, "generation", json_integer((json_int_t)event->generation));
    put_known(object, "rotation_id", event->rotation_id);
    put_known(object, "new_key", event->new_key.id.hex);
    put_known(object, "new_pubkey", event->new_key.pem);
    put_known(object, "old_key", event->old_key.id.hex);
    put_known(object, "old_pubkey", event->old_key.pem);
    if (event->cut_id[0] != '\0') {
        put_text(object, "kind", deny_kind_wire(event->cut_kind));
        put_text(object, "id", event->cut_id);
    }
    if (event->type == EVENT_DEVICE_KEY_REFUSED)
        put_text(object, "why", reason_wire(event->why));
    put_known(object, "reason", event->reason);
    put_known(object, "origin", event->origin);
}

char *event_json(const struct device_event *event)
{
    json_t *object = json_or_die(json_object());
    char time[CLOCK_RFC3339_SIZE];

    clock_format_rfc3339(event->at_ms, time);
    if (event->type == EVENT_DEVICE_PUBKEY_CHANGE)
        describe_pubkey_change(event, time, object);
    else
        describe_other(event, time, object);
    char *text = json_dumps(object, JSON_COMPACT);
    if (text == NULL)
        abort();
    json_decref(object);
    return text;
}

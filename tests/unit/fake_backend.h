/* SPDX-License-Identifier: BSD-2-Clause */
/* Backends that follow a script, to the letter and to the byte. They live in the event loop of the
 * test. */
#pragma once

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fake_act {
    FAKE_HANG,        /* the script is over: nothing more happens, the connection stays open */
    FAKE_AWAIT,       /* goes on when `text` has come, behind what was awaited before */
    FAKE_AWAIT_TOTAL, /* goes on when `n` bytes have come in all */
    FAKE_SEND,        /* `text` */
    FAKE_DRIP,        /* `text`, one byte a turn of the loop */
    FAKE_FILL,        /* `n` bytes of the pattern, from its beginning */
    FAKE_PAUSE,       /* `n` milliseconds */
    FAKE_DEAF,        /* reads nothing any more */
    FAKE_AGAIN,       /* from the script's beginning; at most 100 times */
    FAKE_SHUT,        /* ends its own side */
    FAKE_CLOSE,
    FAKE_RESET,
};

struct fake_step {
    enum fake_act act;
    const char *text;
    size_t n;
};

enum { FAKE_CONNS_MAX = 64, FAKE_STEPS_MAX = 12 };

/* One connection's script; unused steps are FAKE_HANG. */
struct fake_script {
    struct fake_step steps[FAKE_STEPS_MAX];
};

/* For writing scripts. */
#define AWAIT(text_)                                                                               \
    {                                                                                              \
        .act = FAKE_AWAIT, .text = (text_)                                                         \
    }
#define SEND(text_)                                                                                \
    {                                                                                              \
        .act = FAKE_SEND, .text = (text_)                                                          \
    }
#define DRIP(text_)                                                                                \
    {                                                                                              \
        .act = FAKE_DRIP, .text = (text_)                                                          \
    }
#define DO(act_)                                                                                   \
    {                                                                                              \
        .act = (act_)                                                                              \
    }
#define DO_N(act_, n_)                                                                             \
    {                                                                                              \
        .act = (act_), .n = (n_)                                                                   \
    }
#define REQUEST AWAIT("\r\n\r\n") /* the end of its head */

struct fake_backend;

enum fake_kind {
    FAKE_TCP,
    FAKE_UNIX,
};

/* The i-th connection follows scripts[i], those beyond the last one follow the last. Scripts are
 * borrowed. */
struct fake_backend *fake_backend_new(struct event_base *base, enum fake_kind kind,
                                      const struct fake_script *scripts, size_t n_scripts);
void fake_backend_free(struct fake_backend **backend);

uint16_t fake_backend_port(const struct fake_backend *backend);
const char *fake_backend_path(const struct fake_backend *backend);

/* Accepted so far. */
size_t fake_backend_conns(const struct fake_backend *backend);
/* What came on the i-th connection; borrowed. */
const char *fake_backend_got(const struct fake_backend *backend, size_t i, size_t *out_len);
/* How much the first successful read of the i-th connection brought. */
size_t fake_backend_first_read(const struct fake_backend *backend, size_t i);

/* Stops and resumes accepting; while stopped, the kernel queues one connection and no more. */
void fake_backend_accept(struct fake_backend *backend, bool on);

/* The i-th byte of the pattern. */
static inline char fake_pattern(size_t i)
{
    return (char)('a' + (i * 7 + i / 251) % 26);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/* The first commands on a new link, sent in one piece: AUTH, SELECT, and the fleet's number of
 * partitions, which is written by whoever comes first and compared by all others. That it may be
 * written tells a primary from a replica. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/store/address.h"

struct redisReply;

enum greeting_kind {
    GREETING_SERVER,   /* a server with our data */
    GREETING_MASTER,   /* likewise; sentinels named it, and it must say of itself that it is one */
    GREETING_NODE,     /* likewise, of a Cluster: another node may have the number of partitions */
    GREETING_SENTINEL, /* a sentinel, with credentials of its own */
    GREETING_GUIDE,    /* a Cluster's node that is only asked who has which slots */
};

/* How the servers with our data are greeted. */
enum greeting_kind greeting_kind_of_servers(const struct config *config);

enum greeting_step {
    GREETING_STEP_AUTH,
    GREETING_STEP_PING, /* to whom nothing else is said */
    GREETING_STEP_ROLE,
    GREETING_STEP_SELECT,
    GREETING_STEP_CLAIM,   /* SET <prefix>:{p00}:partitions N NX */
    GREETING_STEP_COMPARE, /* GET <prefix>:{p00}:partitions */
    GREETING_STEPS,
};

/* Embedded in the link. */
struct greeting {
    enum greeting_kind kind;
    uint32_t partitions;
    bool knows_layout;     /* DONE, and the number of partitions was there and ours */
    char claim_error[128]; /* counts only when there turns out to be no number */
    bool sends[GREETING_STEPS];
    enum greeting_step step; /* whose answer comes next */
};

enum greeting_progress {
    GREETING_MORE,
    GREETING_DONE,
    GREETING_FAILED, /* the server cannot be used at the moment */
    GREETING_WRONG,  /* trying again cannot help: credentials, or another number of partitions */
};

/* The commands as RESP text, owned by the caller: mem_free(). NULL with a sentence in `error` when
 * the password cannot be read; it is read anew each time, so that it may be changed under a running
 * daemon. */
char *greeting_begin(struct greeting *greeting, enum greeting_kind kind,
                     const struct config *config, const struct store_address *address, char *error,
                     size_t error_size) MUST_CHECK;

/* Could greeting_begin() read the passwords, where there are to be some? */
bool greeting_has_password(const struct config *config, char *error, size_t error_size) MUST_CHECK;

enum greeting_progress greeting_take_reply(struct greeting *greeting,
                                           const struct redisReply *reply, char *error,
                                           size_t error_size) MUST_CHECK;

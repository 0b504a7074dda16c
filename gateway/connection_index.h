/* SPDX-License-Identifier: BSD-2-Clause */
/* A worker's live connections by device name, so that a device's denial, or a rotation, finds
 * exactly whom it means, however many others there are. */
#pragma once

#include "gateway/base/list.h"
#include "gateway/base/macros.h"

struct connection_index;

/* Embedded in the connection. */
struct connection_index_link {
    struct list link;
    const char *device; /* borrowed from the connection's credentials, which live as long as the
                           link is in the index */
};

struct connection_index *connection_index_new(void) MUST_CHECK;
void connection_index_free(struct connection_index **index);

void connection_index_link_init(struct connection_index_link *link);
void connection_index_add(struct connection_index *index, struct connection_index_link *link,
                          const char *device);
/* Fine for a link that is not in the index. */
void connection_index_remove(struct connection_index *index, struct connection_index_link *link);

/* Calls `visit` for every connection of that device. It may remove the link that it is given, and
 * no other. */
typedef void connection_index_visit_fn(struct connection_index_link *link, void *arg);
void connection_index_visit(struct connection_index *index, const char *device,
                            connection_index_visit_fn *visit, void *arg);

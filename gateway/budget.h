/* SPDX-License-Identifier: BSD-2-Clause */
/* Who may have how much: connections and TLS handshakes in all, of one source address, and
 * connections of one device.
 *
 * The numbers in the configuration are those of the whole process, exactly, however the kernel
 * spreads a source's connections over the workers: the budget is shared by all of them. It is asked
 * when a connection is accepted, when its handshake has ended, when its device is admitted, and
 * when it closes; never on a request's way. Totals are relaxed atomics; sources and devices are
 * entries of one table whose buckets are guarded by striped locks, so two workers meet in a lock
 * only by chance. That is some 100 ns a connection, where a handshake costs 500 µs.
 *
 * Memory: an entry lives as long as a connection counts in it. There are never more than two a
 * connection, whatever addresses strangers come from; nothing is evicted, nothing is estimated.
 *
 * A source is an IPv4 address or an IPv6 /64 (limits.source_prefix_v4, _v6): whoever has one
 * address of a /64 has them all. Many devices may share a source (a NAT, a proxy in front), so its
 * numbers are generous, and meant for one that goes wild. Unix sockets have no source.
 *
 * A device's number is for devices that were admitted: who shows a stolen key that is denied takes
 * nothing from the device. */
#pragma once

#include <stdint.h>
#include <sys/socket.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "policy/reason.h"

struct budget;
struct budget_entry;

/* What one connection holds. Embedded in it; zeroed: nothing. Touched by its worker alone. */
struct budget_claim {
    struct budget_entry *source; /* NULL: has none */
    struct budget_entry *device; /* NULL: not admitted */
    bool connected;
    bool handshaking;
};

struct budget_newcomer {
    const struct sockaddr_storage *peer;
    bool handshakes; /* TLS */
    size_t reserve;  /* so many above max_connections are for it */
};

/* `connections`: about how many there will be at most. */
struct budget *budget_new(size_t connections) MUST_CHECK;
/* When no claim is left. NULL inside is fine. */
void budget_free(struct budget **budget);

/* REASON_OK and a claim, or which limit is reached; then nothing is held. Thread-safe, as all that
 * follow. */
enum reason budget_enter(struct budget *budget, const struct config *config,
                         const struct budget_newcomer *newcomer,
                         struct budget_claim *out_claim) MUST_CHECK;
/* Fine when there is none. */
void budget_end_handshake(struct budget *budget, struct budget_claim *claim);
/* False when the device has `max` connections already. Fine when it is held already. */
bool budget_enter_device(struct budget *budget, struct budget_claim *claim, const char *device,
                         size_t max) MUST_CHECK;
void budget_leave_device(struct budget *budget, struct budget_claim *claim);
/* Gives back whatever is held. */
void budget_leave(struct budget *budget, struct budget_claim *claim);

size_t budget_connections(const struct budget *budget);
size_t budget_handshakes(const struct budget *budget);
/* Sources and devices that hold something. */
size_t budget_entries(const struct budget *budget);

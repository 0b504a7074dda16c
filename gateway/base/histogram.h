/* SPDX-License-Identifier: BSD-2-Clause */
/* How often something took how long, in fixed buckets: one thread observes, any thread reads (as in
 * gateway/base/stat.h). An observation is a short search and two additions, a few nanoseconds.
 *
 * A reader may catch an observation between its two additions. So the number of observations is the
 * sum of the buckets, which never contradicts them, and `sum` may be one observation behind. */
#pragma once

#include <stddef.h>

#include "gateway/base/stat.h"

enum { HISTOGRAM_BOUNDS_MAX = 18 };

struct histogram_shape {
    uint64_t units; /* how many of what is observed make one of what is shown, which is seconds */
    size_t n;
    uint64_t bounds[HISTOGRAM_BOUNDS_MAX]; /* ascending; a value belongs to the first that is not
                                              below it, or to the last bucket, which has none */
};

extern const struct histogram_shape histogram_latency; /* observes microseconds: 50 us to 60 s */
extern const struct histogram_shape histogram_age;     /* observes seconds: 0 to two years */

struct histogram {
    const struct histogram_shape *shape; /* static */
    counter sum;
    counter counts[HISTOGRAM_BOUNDS_MAX + 1]; /* of each bucket alone */
};

void histogram_init(struct histogram *histogram, const struct histogram_shape *shape);

/* What is below zero counts as zero. */
static inline void histogram_observe(struct histogram *histogram, int64_t value)
{
    const struct histogram_shape *shape = histogram->shape;
    uint64_t v = value > 0 ? (uint64_t)value : 0;
    size_t i = 0;

    while (i < shape->n && v > shape->bounds[i])
        i++;
    stat_add(&histogram->counts[i], 1);
    stat_add(&histogram->sum, v);
}

/* Several threads' histograms of one shape, added up for showing. */
struct histogram_total {
    uint64_t sum;
    uint64_t counts[HISTOGRAM_BOUNDS_MAX + 1];
};
void histogram_add_to(struct histogram_total *total, const struct histogram *histogram);

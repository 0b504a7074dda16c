/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/base/histogram.h"

#include <string.h>

enum { MS = 1000, S = 1000 * MS, HOUR = 3600, DAY = 24 * HOUR };

const struct histogram_shape histogram_latency = {
    .units = S,
    .n = 18,
    .bounds = {50, 100, 250, 500, 1 * MS, 2500, 5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS,
               250 * MS, 500 * MS, 1 * S, 2500 * MS, 5 * S, 10 * S, 60 * S},
};

const struct histogram_shape histogram_age = {
    .units = 1,
    .n = 13,
    .bounds = {0, 1 * HOUR, 1 * DAY, 3 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 60 * DAY, 90 * DAY,
               180 * DAY, 270 * DAY, 365 * DAY, 730 * DAY},
};

void histogram_init(struct histogram *histogram, const struct histogram_shape *shape)
{
    memset(histogram, 0, sizeof(*histogram));
    histogram->shape = shape;
}

void histogram_add_to(struct histogram_total *total, const struct histogram *histogram)
{
    for (size_t i = 0; i <= histogram->shape->n; i++)
        total->counts[i] += stat_get(&histogram->counts[i]);
    total->sum += stat_get(&histogram->sum);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/* What the kernel knows of this process, under the names that Prometheus' own clients use. */
#pragma once

#include <stdint.h>
#include <stdio.h>

/* `open_files`: counted elsewhere, for with many of them it is no work for a loop that serves. */
void process_metrics_write(FILE *out, uint64_t open_files);

/* How many descriptors this process has. */
uint64_t process_count_files(void);

/* SPDX-License-Identifier: BSD-2-Clause */
/* Pieces of memory that come and go with every request: buffers, exchanges, heads. They are
 * allocated and freed like any others, but whoever frees one knows its size; so a thread can keep
 * those that were freed for the next who wants one of that size. The last one freed is the next
 * one taken: it is still in the CPU's cache, where a heap would go round through all of its memory.
 *
 * A thread keeps nothing until it says how much it may; then never more than that. */
#pragma once

#include <stddef.h>

#include "gateway/base/macros.h"

/* NULL when memory is out. Not zeroed. */
void *piece_new(size_t size) MUST_CHECK;
/* Zeroed; ends the process when memory is out: for objects of a size that the program fixes. */
void *piece_zalloc(size_t size) MUST_CHECK;
/* Of exactly this size; by any thread. NULL is fine. */
void piece_free(void *piece, size_t size);

/* From now on the calling thread keeps up to `max` bytes that were freed. Ends with
 * pieces_release(), on the same thread, which gives all of them back. */
void pieces_keep(size_t max);
void pieces_release(void);

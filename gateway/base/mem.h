/* SPDX-License-Identifier: BSD-2-Clause */
/* Allocation. Small objects of a size that the program fixes: mem_new() and friends, which end the
 * process when memory is out, because nothing sensible can follow. Sizes that a peer influences:
 * mem_try_alloc(), whose caller copes. */
#pragma once

#include <stddef.h>

#include "gateway/base/macros.h"

/* Once, before there are threads: fits the C library's heap to a server that takes and returns
 * buffers of 16 to 128 KiB all the time. */
void mem_init(void);

/* Zeroed. Never NULL. Free with mem_free(). */
#define mem_new(type) ((type *)mem_zalloc(sizeof(type)))
void *mem_zalloc(size_t size) MUST_CHECK;
/* n * size with the overflow checked; zeroed; never NULL. */
void *mem_array(size_t n, size_t size) MUST_CHECK;
char *mem_strdup(const char *text) MUST_CHECK;
char *mem_strndup(const char *text, size_t len) MUST_CHECK;
char *mem_printf(const char *format, ...) MUST_CHECK PRINTF_LIKE(1, 2);

/* NULL when memory is out. Not zeroed. */
void *mem_try_alloc(size_t size) MUST_CHECK;

/* NULL is fine. */
void mem_free(void *pointer);

/* For CLEANUP(mem_free_at): frees the pointer stored at `pointer_at`. */
void mem_free_at(void *pointer_at);

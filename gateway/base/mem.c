/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/base/mem.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *mem_or_die(void *pointer)
{
    if (pointer == NULL) {
        fputs("device-gateway: out of memory\n", stderr);
        abort();
    }
    return pointer;
}

void mem_init(void)
{
    enum { MAP_ABOVE = 1 << 20, KEEP_FREE = 4 << 20 };

    /* Otherwise buffers above 128 KiB come from the kernel and go back to it, page faults included,
     * a heap's end is given back as soon as two buffers are free there, and every large piece that
     * is freed first sweeps all the small ones together. */
    (void)mallopt(M_MMAP_THRESHOLD, MAP_ABOVE);
    (void)mallopt(M_TRIM_THRESHOLD, KEEP_FREE);
    (void)mallopt(M_MXFAST, 0);
}

void *mem_zalloc(size_t size)
{
    return mem_or_die(calloc(1, size));
}

void *mem_array(size_t n, size_t size)
{
    return mem_or_die(calloc(n > 0 ? n : 1, size));
}

char *mem_strdup(const char *text)
{
    return mem_or_die(strdup(text));
}

char *mem_strndup(const char *text, size_t len)
{
    return mem_or_die(strndup(text, len));
}

char *mem_printf(const char *format, ...)
{
    char *text = NULL;
    va_list args;

    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    return mem_or_die(len < 0 ? NULL : text);
}

void *mem_try_alloc(size_t size)
{
    return malloc(size);
}

void mem_free(void *pointer)
{
    free(pointer);
}

void mem_free_at(void *pointer_at)
{
    void *pointer;

    memcpy(&pointer, pointer_at, sizeof(pointer));
    free(pointer);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/* A Redis command, put together from borrowed pieces and written out once (RESP, an array of bulk
 * strings). An argument may consist of several pieces, so a key needs no buffer of its own. Lives
 * on the stack; every piece must live until command_write(). The number of pieces is bounded by
 * what callers build, not by input: too many is a programming mistake. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

enum { COMMAND_PIECES_MAX = 192, COMMAND_SCRATCH_SIZE = 1024 };

struct command_piece {
    struct str text;
    bool begins; /* a new argument; otherwise it goes on */
};

/* Nothing to be read by others. */
struct command {
    size_t n_args;
    size_t n_pieces;
    size_t scratch_used;
    struct command_piece pieces[COMMAND_PIECES_MAX];
    char scratch[COMMAND_SCRATCH_SIZE]; /* numbers as text */
};

void command_init(struct command *command);
/* A new argument. */
void command_add(struct command *command, struct str text);
void command_add_int(struct command *command, int64_t number);
/* More of the last argument. */
void command_extend(struct command *command, struct str text);

/* The arguments without the array's head, which command_write_head() writes: so that a script's
 * arguments are kept once and sent behind EVALSHA or EVAL. Owned by the caller: mem_free(). */
char *command_write(const struct command *command, size_t *out_len) MUST_CHECK;

enum { COMMAND_HEAD_SIZE = 32 };
/* "*N\r\n" for a command of n_args arguments; returns its length. */
size_t command_write_head(size_t n_args, char out[COMMAND_HEAD_SIZE]);

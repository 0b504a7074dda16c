/* SPDX-License-Identifier: BSD-2-Clause */
/* Request targets, normalised once: what rules judge is what is forwarded (RFC 3986, 6.2.2). */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

struct http_target {
    char *path;       /* owned: starts with '/', normalised, terminated */
    struct str query; /* with its '?', or empty; as received; borrows from the input of
                         http_target_parse() */
    struct str host;  /* of absolute-form, as http_host_parse() gives it; empty otherwise. Borrows
                         from the input */
    bool is_asterisk; /* "*": path is "*" */
};

/* Origin-form, absolute-form (http or https) and, for OPTIONS, asterisk-form.
 *
 * Normalisation: percent-encoded unreserved characters are decoded, the hex digits of others made
 * upper case; "//" becomes
 * "/"; "." and ".." segments are resolved. Refused (false), because two parties could read them
 * differently: a ".." above the root, a fragment, a percent sign without two hex digits, %00, an
 * encoded slash, backslash or control character, a raw backslash, path parameters (";" raw or
 * encoded), doubly encoded characters (%25 before two hex digits), encoded bytes that are not UTF-8
 * (overlong forms of "/" and "." among them), anything outside printable ASCII, user info in the
 * authority, an empty or odd authority; and what RFC 3986 does not allow in a path ("<>^`{|}[]
 * raw). The query is only judged, not changed. Owned on success: http_target_clear().
 *
 * In absolute-form the Host field has to be ignored (RFC 9112, 3.2.2) or, better, to agree: compare
 * `host` with what http_host_parse() makes of the field, without case. */
bool http_target_parse(struct str method, struct str target,
                       struct http_target *out_target) MUST_CHECK;
void http_target_clear(struct http_target *target);

/* The Host field's or an authority's host without port, judged strictly: a DNS name of letters,
 * digits, '-' and '_', an IPv4 address in its one usual form, or an IPv6 address in brackets, which
 * stay. The dot at the end of a full name does not belong to the result. False if it is odd. */
bool http_host_parse(struct str authority, struct str *out_host) MUST_CHECK;

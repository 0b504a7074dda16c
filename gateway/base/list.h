/* SPDX-License-Identifier: BSD-2-Clause */
/* Doubly linked lists through a link embedded in the member: an object leaves its list in one step,
 * without a search. */
#pragma once

#include <stdbool.h>

#include "gateway/base/macros.h"

/* A list's head is a link too. A link that is in no list points to itself. */
struct list {
    struct list *next;
    struct list *prev;
};

static inline void list_init(struct list *link)
{
    link->next = link->prev = link;
}

static inline bool list_is_empty(const struct list *head)
{
    return head->next == head;
}

/* For links: in a list now? */
static inline bool list_is_linked(const struct list *link)
{
    return link->next != link;
}

static inline void list_insert_after(struct list *where, struct list *link)
{
    link->prev = where;
    link->next = where->next;
    where->next->prev = link;
    where->next = link;
}

static inline void list_push_front(struct list *head, struct list *link)
{
    list_insert_after(head, link);
}

static inline void list_push_back(struct list *head, struct list *link)
{
    list_insert_after(head->prev, link);
}

/* Fine for a link that is in no list. */
static inline void list_remove(struct list *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    list_init(link);
}

/* Moves all members of `from` to the (initialised, empty) head `to`. */
static inline void list_move_all(struct list *from, struct list *to)
{
    if (list_is_empty(from))
        return;
    to->next = from->next;
    to->prev = from->prev;
    to->next->prev = to;
    to->prev->next = to;
    list_init(from);
}

#define list_entry(link, type, member) CONTAINER_OF(link, type, member)

/* The body may remove the member that it was given, and no other.
 * NOLINTBEGIN(bugprone-macro-parentheses): names that are declared cannot stand in them. */
#define list_for_each_safe(link, following, head)                                                  \
    for (struct list *link = (head)->next, *following = link->next; link != (head);                \
         link = following, following = link->next)
/* NOLINTEND(bugprone-macro-parentheses) */

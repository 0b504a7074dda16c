/* SPDX-License-Identifier: BSD-2-Clause */
/* A denial must find every connection of its device, and no other, however many there are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "gateway/connection_index.h"

enum { DEVICES = 1000, EACH = 3 };

struct member {
    struct connection_index_link link;
    char device[16];
    int visited;
};

static struct member members[DEVICES * EACH];

static void count_visit(struct connection_index_link *link, void *arg)
{
    struct member *member = CONTAINER_OF(link, struct member, link);

    assert_string_equal(member->device, arg);
    member->visited++;
}

static void remove_visit(struct connection_index_link *link, void *arg)
{
    connection_index_remove(arg, link);
}

static void exactly_the_connections_of_a_device_are_visited(void **state)
{
    struct connection_index *index = connection_index_new();

    for (int i = 0; i < DEVICES * EACH; i++) {
        (void)snprintf(members[i].device, sizeof(members[i].device), "device-%d", i % DEVICES);
        connection_index_link_init(&members[i].link);
        connection_index_add(index, &members[i].link, members[i].device);
    }
    char name[] = "device-77";
    connection_index_visit(index, name, count_visit, name);
    for (int i = 0; i < DEVICES * EACH; i++)
        assert_int_equal(members[i].visited, i % DEVICES == 77);

    connection_index_visit(index, name, remove_visit, index);
    connection_index_visit(index, name, count_visit, name);
    assert_int_equal(members[77].visited, 1);
    connection_index_remove(index, &members[77].link);
    connection_index_add(index, &members[77].link, members[77].device);
    connection_index_visit(index, name, count_visit, name);
    assert_int_equal(members[77].visited, 2);
    connection_index_free(&index);
    assert_null(index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exactly_the_connections_of_a_device_are_visited)};
    return cmocka_run_group_tests_name("connection_index", tests, NULL, NULL);
}

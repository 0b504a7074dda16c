/* SPDX-License-Identifier: BSD-2-Clause */
/* Limits of connections and handshakes: exact, for whoever they are meant, and nothing is left
 * behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/base/macros.h"
#include "gateway/budget.h"

static const struct config settings = {
    .max_connections = 6,
    .limits = {.handshakes = 4,
               .source_handshakes = 2,
               .source_connections = 3,
               .source_prefix_v4 = 32,
               .source_prefix_v6 = 64,
               .device_connections = 2},
};

static struct sockaddr_storage address_of(const char *text)
{
    struct sockaddr_storage address = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;

    if (strcmp(text, "unix") == 0) {
        address.ss_family = AF_UNIX;
    } else if (strchr(text, ':') != NULL) {
        address.ss_family = AF_INET6;
        assert_int_equal(inet_pton(AF_INET6, text, &in6->sin6_addr), 1);
    } else {
        address.ss_family = AF_INET;
        assert_int_equal(inet_pton(AF_INET, text, &in->sin_addr), 1);
    }
    return address;
}

static enum reason enter(struct budget *budget, const struct config *config, const char *from,
                         bool handshakes, struct budget_claim *claim)
{
    const struct sockaddr_storage peer = address_of(from);
    const struct budget_newcomer newcomer = {.peer = &peer, .handshakes = handshakes};

    *claim = (struct budget_claim){0};
    return budget_enter(budget, config, &newcomer, claim);
}

static void each_limit_has_its_reason(void **state)
{
    struct budget *budget = budget_new(6);
    struct budget_claim a[3], b[3], refused;

    assert_int_equal(enter(budget, &settings, "192.0.2.1", true, &a[0]), REASON_OK);
    assert_int_equal(enter(budget, &settings, "192.0.2.1", true, &a[1]), REASON_OK);
    assert_int_equal(enter(budget, &settings, "192.0.2.1", true, &refused),
                     REASON_TOO_MANY_HANDSHAKES_OF_SOURCE);
    budget_end_handshake(budget, &a[0]);
    assert_int_equal(enter(budget, &settings, "192.0.2.1", true, &a[2]), REASON_OK);
    assert_int_equal(enter(budget, &settings, "192.0.2.1", false, &refused),
                     REASON_TOO_MANY_CONNECTIONS_OF_SOURCE);
    assert_int_equal(enter(budget, &settings, "192.0.2.2", true, &b[0]), REASON_OK);
    assert_int_equal(enter(budget, &settings, "192.0.2.2", true, &b[1]), REASON_OK);
    assert_int_equal(budget_handshakes(budget), 4);
    assert_int_equal(enter(budget, &settings, "192.0.2.3", true, &refused),
                     REASON_TOO_MANY_HANDSHAKES);
    assert_int_equal(enter(budget, &settings, "unix", false, &b[2]), REASON_OK);
    assert_int_equal(enter(budget, &settings, "unix", false, &refused),
                     REASON_TOO_MANY_CONNECTIONS);
    /* Whoever is refused holds nothing. */
    assert_false(refused.connected || refused.handshaking || refused.source != NULL);
    assert_int_equal(budget_connections(budget), 6);
    assert_int_equal(budget_entries(budget), 2);

    for (size_t i = 0; i < 3; i++) {
        budget_leave(budget, &a[i]);
        budget_leave(budget, &b[i]);
        budget_leave(budget, &b[i]);
    }
    assert_int_equal(budget_connections(budget), 0);
    assert_int_equal(budget_handshakes(budget), 0);
    assert_int_equal(budget_entries(budget), 0);
    budget_free(&budget);
}

static void a_reserve_is_above_the_limit(void **state)
{
    struct config one = settings;
    struct budget *budget = budget_new(1);
    struct budget_claim claims[2] = {{0}}, refused;
    const struct sockaddr_storage peer = address_of("unix");
    const struct budget_newcomer privileged = {.peer = &peer, .reserve = 1};

    one.max_connections = 1;
    assert_int_equal(enter(budget, &one, "192.0.2.1", true, &claims[0]), REASON_OK);
    assert_int_equal(enter(budget, &one, "192.0.2.2", true, &refused), REASON_TOO_MANY_CONNECTIONS);
    assert_int_equal(budget_enter(budget, &one, &privileged, &claims[1]), REASON_OK);
    budget_leave(budget, &claims[0]);
    budget_leave(budget, &claims[1]);
    budget_free(&budget);
}

static void a_source_is_a_prefix(void **state)
{
    static const struct {
        const char *a, *b;
        size_t v4, v6;
        bool same;
    } cases[] = {
        {"192.0.2.1", "192.0.2.1", 32, 64, true},
        {"192.0.2.1", "192.0.2.2", 32, 64, false},
        {"192.0.2.1", "192.0.2.254", 24, 64, true},
        {"192.0.2.1", "192.0.3.1", 24, 64, false},
        {"192.0.2.1", "192.0.3.1", 23, 64, true},
        {"192.0.2.1", "::ffff:192.0.2.1", 32, 64, true},
        {"::ffff:192.0.2.1", "::ffff:192.0.2.2", 32, 64, false},
        {"2001:db8::1", "2001:db8::ffff:1", 32, 64, true},
        {"2001:db8:0:1::1", "2001:db8:0:2::1", 32, 64, false},
        {"2001:db8:0:1::1", "2001:db8:0:2::1", 32, 60, true},
        {"2001:db8::1", "2001:db8::2", 32, 128, false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct config config = settings;
        struct budget *budget = budget_new(6);
        struct budget_claim a, b;
        config.limits.source_connections = 1;
        config.limits.source_prefix_v4 = cases[i].v4;
        config.limits.source_prefix_v6 = cases[i].v6;
        assert_int_equal(enter(budget, &config, cases[i].a, false, &a), REASON_OK);
        assert_int_equal(enter(budget, &config, cases[i].b, false, &b),
                         cases[i].same ? REASON_TOO_MANY_CONNECTIONS_OF_SOURCE : REASON_OK);
        budget_leave(budget, &a);
        budget_leave(budget, &b);
        budget_free(&budget);
    }
}

static void a_device_has_a_number_of_its_own(void **state)
{
    struct budget *budget = budget_new(6);
    struct budget_claim claims[3] = {{0}};
    const char *long_name = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    assert_true(budget_enter_device(budget, &claims[0], long_name, 2));
    assert_true(budget_enter_device(budget, &claims[0], long_name, 2));
    assert_true(budget_enter_device(budget, &claims[1], long_name, 2));
    assert_false(budget_enter_device(budget, &claims[2], long_name, 2));
    assert_true(budget_enter_device(budget, &claims[2], "b", 2));
    budget_leave_device(budget, &claims[2]);
    budget_leave_device(budget, &claims[0]);
    assert_true(budget_enter_device(budget, &claims[2], long_name, 2));
    for (size_t i = 0; i < 3; i++)
        budget_leave(budget, &claims[i]);
    assert_int_equal(budget_entries(budget), 0);
    budget_free(&budget);
}

struct crowd {
    struct budget *budget;
    struct config config;
    atomic_int inside;
    atomic_int most;
    atomic_int entered;
};

static void *come_and_go(void *arg)
{
    struct crowd *crowd = arg;
    const struct sockaddr_storage peer = address_of("192.0.2.7");
    const struct budget_newcomer newcomer = {.peer = &peer, .handshakes = true};

    for (int i = 0; i < 20000; i++) {
        struct budget_claim claim = {0};
        if (budget_enter(crowd->budget, &crowd->config, &newcomer, &claim) != REASON_OK)
            continue;
        int inside = atomic_fetch_add(&crowd->inside, 1) + 1;
        int most = atomic_load(&crowd->most);
        while (inside > most && !atomic_compare_exchange_weak(&crowd->most, &most, inside)) {
        }
        (void)atomic_fetch_add(&crowd->entered, 1);
        (void)atomic_fetch_sub(&crowd->inside, 1);
        budget_leave(crowd->budget, &claim);
    }
    return NULL;
}

/* Workers share it: the numbers are those of the process. */
static void threads_together_stay_within_the_limit(void **state)
{
    struct crowd crowd = {.budget = budget_new(2), .config = settings};
    pthread_t threads[4];

    crowd.config.limits.source_connections = 2;
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &crowd), 0);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        (void)pthread_join(threads[i], NULL);
    assert_true(atomic_load(&crowd.entered) > 0);
    assert_in_range(atomic_load(&crowd.most), 1, 2);
    assert_int_equal(budget_connections(crowd.budget), 0);
    assert_int_equal(budget_handshakes(crowd.budget), 0);
    assert_int_equal(budget_entries(crowd.budget), 0);
    budget_free(&crowd.budget);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_limit_has_its_reason),
        cmocka_unit_test(a_reserve_is_above_the_limit),
        cmocka_unit_test(a_source_is_a_prefix),
        cmocka_unit_test(a_device_has_a_number_of_its_own),
        cmocka_unit_test(threads_together_stay_within_the_limit),
    };
    return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/daemon/notify.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/base/log.h"
#include "gateway/base/str.h"

enum { MESSAGE_MAX = 512 };

static struct {
    int fd; /* owned; valid when `where_len` is set */
    struct sockaddr_un where;
    socklen_t where_len; /* 0: no manager */
    int64_t watchdog_ms;
} notify;

/* An environment variable's number, which then is gone. False when it is not there, or none. */
static bool take_number(const char *name, uint64_t *out)
{
    const char *text = getenv(name);
    bool good = text != NULL && str_to_u64(str_c(text), out);

    (void)unsetenv(name);
    return good;
}

static void notify_init_watchdog(void)
{
    uint64_t usec = 0, pid = 0;
    bool for_somebody = getenv("WATCHDOG_PID") != NULL;
    bool good = take_number("WATCHDOG_USEC", &usec);

    if (for_somebody && (!take_number("WATCHDOG_PID", &pid) || pid != (uint64_t)getpid()))
        return;
    if (good && usec / 1000 <= INT64_MAX)
        notify.watchdog_ms = (int64_t)(usec / 1000);
}

void notify_init(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un *where = &notify.where;

    notify_init_watchdog();
    if (path == NULL)
        return;
    size_t len = strlen(path);
    *where = (struct sockaddr_un){.sun_family = AF_UNIX};
    bool good = (path[0] == '/' || path[0] == '@') &&
                str_copy(where->sun_path, sizeof(where->sun_path), str_c(path));
    if (good)
        notify.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!good || notify.fd < 0) {
        log_write(LOG_WARNING, "the service manager cannot be told how we are",
                  LOG_STR("NOTIFY_SOCKET", path));
    } else {
        /* "@" stands for the NUL of the abstract namespace, whose names have no end of their own. */
        bool is_abstract = path[0] == '@';
        if (is_abstract)
            where->sun_path[0] = '\0';
        notify.where_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + !is_abstract);
    }
    (void)unsetenv("NOTIFY_SOCKET");
}

void notify_send(const char *format, ...)
{
    char message[MESSAGE_MAX];
    va_list args;

    if (notify.where_len == 0)
        return;
    va_start(args, format);
    int len = vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    if (len <= 0)
        return;
    size_t size = (size_t)len < sizeof(message) ? (size_t)len : sizeof(message) - 1;
    (void)sendto(notify.fd, message, size, MSG_NOSIGNAL, (const struct sockaddr *)&notify.where,
                 notify.where_len);
}

int64_t notify_watchdog_ms(void)
{
    return notify.where_len != 0 ? notify.watchdog_ms : 0;
}

bool notify_may_pet(const uint64_t *ticked_ms, size_t n, uint64_t now_ms, int64_t watchdog_ms)
{
    for (size_t i = 0; i < n; i++) {
        if (now_ms > ticked_ms[i] && now_ms - ticked_ms[i] > (uint64_t)watchdog_ms / 2)
            return false;
    }
    return true;
}

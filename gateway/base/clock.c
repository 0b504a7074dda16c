/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t clock_read_us(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t clock_monotonic_ms(void)
{
    return clock_read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_monotonic_us(void)
{
    return clock_read_us(CLOCK_MONOTONIC);
}

int64_t clock_wall_ms(void)
{
    return clock_read_us(CLOCK_REALTIME) / 1000;
}

/* False outside the years 1-9999. */
static bool clock_split(int64_t wall_ms, struct tm *out_tm, int *out_ms)
{
    int64_t seconds = wall_ms / 1000;
    int64_t ms = wall_ms % 1000;

    if (ms < 0) {
        ms += 1000;
        seconds--;
    }
    time_t when = (time_t)seconds;
    if (gmtime_r(&when, out_tm) == NULL || out_tm->tm_year < 1 - 1900 ||
        out_tm->tm_year > 9999 - 1900)
        return false;
    *out_ms = (int)ms;
    return true;
}

/* Log lines come many a second: what is before the dot is made once. */
void clock_format_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_SIZE])
{
    static _Thread_local struct {
        int64_t second;
        size_t len;
        char text[CLOCK_RFC3339_SIZE];
    } last;
    int64_t second = wall_ms / 1000 - (wall_ms % 1000 < 0);
    int ms = (int)(wall_ms - second * 1000);
    struct tm tm;

    if (last.len == 0 || last.second != second) {
        out[0] = '\0';
        last.len = 0;
        if (!clock_split(wall_ms, &tm, &ms))
            return;
        last.second = second;
        last.len = strftime(last.text, sizeof(last.text), "%Y-%m-%dT%H:%M:%S", &tm);
    }
    const char fraction[] = {
        '.', (char)('0' + ms / 100), (char)('0' + ms / 10 % 10), (char)('0' + ms % 10), 'Z', '\0'};
    memcpy(out, last.text, last.len);
    memcpy(out + last.len, fraction, sizeof(fraction));
}

void clock_format_http_date(int64_t wall_ms, char out[CLOCK_HTTP_DATE_SIZE])
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct tm tm;
    int ms;

    out[0] = '\0';
    if (!clock_split(wall_ms, &tm, &ms))
        return;
    (void)snprintf(out, CLOCK_HTTP_DATE_SIZE, "%s, %02u %s %04u %02u:%02u:%02u GMT",
                   days[tm.tm_wday], (unsigned)tm.tm_mday % 100, months[tm.tm_mon],
                   (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)tm.tm_hour % 100,
                   (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
}

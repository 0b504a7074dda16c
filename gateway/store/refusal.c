/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/refusal.h"

#include "gateway/base/clock.h"
#include "gateway/base/log.h"

enum { REFUSAL_LOG_EVERY_MS = 10000 };

struct refusal_row {
    struct str word;
    enum store_result result;
    bool resets_link;
};

static const struct refusal_row refusal_rows[REFUSAL_COUNT] = {
#define REFUSAL_ROW(name, result_, resets_)                                                        \
    [REFUSAL_##name] = {{#name, sizeof(#name) - 1}, result_, resets_},
    REFUSAL_TABLE(REFUSAL_ROW)
#undef REFUSAL_ROW
};

enum refusal refusal_classify(const char *text)
{
    struct str rest = str_c(text), word;

    if (!str_split(&rest, ' ', &word))
        return REFUSAL_OTHER;
    for (int i = 0; i < REFUSAL_OTHER; i++) {
        if (str_eq(refusal_rows[i].word, word))
            return (enum refusal)i;
    }
    return REFUSAL_OTHER;
}

enum store_result refusal_result(enum refusal refusal)
{
    return refusal_rows[refusal].result;
}

bool refusal_resets_link(enum refusal refusal)
{
    return refusal_rows[refusal].resets_link;
}

void refusal_report(struct refusal_log *log, enum refusal refusal, const char *text,
                    const char *doing)
{
    int64_t now = clock_monotonic_ms();

    if (now < log->next_ms[refusal]) {
        log->suppressed[refusal]++;
        return;
    }
    log_write(LOG_WARNING, "Redis refuses", LOG_STR("error", text), LOG_STR("while", doing),
              LOG_INT("suppressed", log->suppressed[refusal]));
    log->next_ms[refusal] = now + REFUSAL_LOG_EVERY_MS;
    log->suppressed[refusal] = 0;
}

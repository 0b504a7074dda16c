/* SPDX-License-Identifier: BSD-2-Clause */
/* Any bytes as a configuration file. What is accepted must survive its own dump unchanged; what is
 * refused must be told. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/mem.h"
#include "gateway/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_error(const char *line, void *arg)
{
    size_t *n_errors = arg;

    if (strpbrk(line, "\r\n") != NULL || ++*n_errors > 20)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n_errors = 0;
    const struct config *config =
        config_parse("/etc/gateway.yaml", (const char *)data, size, on_error, &n_errors);

    if ((config == NULL) != (n_errors > 0))
        abort();
    if (config == NULL)
        return 0;
    char *dump = config_dump(config);
    const struct config *again =
        config_parse(config->path, dump, strlen(dump), on_error, &n_errors);
    if (again == NULL || config_reload_obstacle(config, again) != NULL)
        abort();
    char *dump_again = config_dump(again);
    if (strcmp(dump, dump_again) != 0)
        abort();
    mem_free(dump);
    mem_free(dump_again);
    config_unref(&config);
    config_unref(&again);
    return 0;
}

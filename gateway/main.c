/* SPDX-License-Identifier: BSD-2-Clause */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "gateway/base/mem.h"
#include "gateway/daemon/daemon.h"
#include "gateway/daemon/snapshot.h"
#include "gateway/store/startup.h"
#include "gateway/tls/server.h"

#define DEFAULT_CONFIG "/etc/device-gateway/gateway.yaml"

enum mode {
    MODE_SERVE,
    MODE_CHECK,
    MODE_DUMP,
};

static const char usage[] =
    "usage: device-gateway [-c FILE] [-t | -T | -V]\n"
    "\n"
    "  -c FILE  the configuration (default: " DEFAULT_CONFIG ")\n"
    "  -t       check the configuration and the files that it names, then exit\n"
    "  -T       print the effective configuration, then exit\n"
    "  -V       print the version, then exit\n"
    "  -h       print this help, then exit\n"
    "\n"
    "Signals: HUP reloads the configuration (all or nothing), TERM and INT drain and stop.\n";

/* The files too: certificates, keys, CAs and CRLs are read, and nothing is changed. */
static int check(const struct config *config)
{
    char error[1024];
    struct snapshot *snapshot = snapshot_new(config, error, sizeof(error));

    if (snapshot == NULL) {
        daemon_print_error(error, NULL);
        return EXIT_FAILURE;
    }
    snapshot_unref(&snapshot);
    if (!store_startup_check_files(config, error, sizeof(error))) {
        daemon_print_error(error, NULL);
        return EXIT_FAILURE;
    }
    (void)printf("%s: the configuration is valid\n", config->path);
    return EXIT_SUCCESS;
}

static int dump(const struct config *config)
{
    CLEANUP(mem_free_at) char *text = config_dump(config);

    return fputs(text, stdout) >= 0 && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int run(enum mode mode, const char *file)
{
    const struct config *config = config_load(file, daemon_print_error, NULL);
    int status = EXIT_FAILURE;

    if (config == NULL)
        return status;
    tls_init();
    switch (mode) {
    case MODE_SERVE:
        return daemon_run(config);
    case MODE_CHECK:
        status = check(config);
        break;
    case MODE_DUMP:
        status = dump(config);
        break;
    }
    config_unref(&config);
    return status;
}

/* Whoever closed one of them would have our log lines written into the next socket of that number. */
static void open_standard_files(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        (void)close(fd);
}

int main(int argc, char **argv)
{
    const char *file = DEFAULT_CONFIG;
    enum mode mode = MODE_SERVE;
    int option;

    open_standard_files();
    mem_init();
    while ((option = getopt(argc, argv, "c:tTVh")) != -1) {
        switch (option) {
        case 'c':
            file = optarg;
            break;
        case 't':
            mode = MODE_CHECK;
            break;
        case 'T':
            mode = MODE_DUMP;
            break;
        case 'V':
            (void)puts("device-gateway " VERSION);
            return EXIT_SUCCESS;
        case 'h':
            (void)fputs(usage, stdout);
            return EXIT_SUCCESS;
        default:
            (void)fputs(usage, stderr);
            return 2;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "device-gateway: unexpected argument \"%s\"\n%s", argv[optind],
                      usage);
        return 2;
    }
    return run(mode, file);
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/operator/process_metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

/* Fields of /proc/self/stat, as proc(5) numbers them. */
enum { STAT_AFTER_NAME = 3, STAT_USER = 14, STAT_SYSTEM = 15, STAT_START = 22, STAT_RSS = 24 };

struct process_facts {
    double cpu_s;
    double start_s; /* since boot */
    uint64_t rss_bytes;
};

static bool read_file(const char *path, char *out, size_t size)
{
    FILE *file = fopen(path, "re");

    if (file == NULL)
        return false;
    size_t len = fread(out, 1, size - 1, file);
    (void)fclose(file);
    out[len] = '\0';
    return len > 0;
}

/* The process' name comes second, in parentheses, and may hold anything, parentheses too. */
static bool read_facts(struct process_facts *out)
{
    double ticks = (double)sysconf(_SC_CLK_TCK);
    uint64_t fields[STAT_RSS + 1] = {0};
    char text[1024];

    if (!read_file("/proc/self/stat", text, sizeof(text)))
        return false;
    const char *at = strrchr(text, ')');
    if (at == NULL)
        return false;
    struct str rest = str_c(at + 1), field;
    rest = str_trim(rest);
    for (int i = STAT_AFTER_NAME; i <= STAT_RSS && str_split(&rest, ' ', &field); i++) {
        if (!str_to_u64(field, &fields[i]))
            fields[i] = 0; /* the state is a letter, some are negative */
    }
    *out = (struct process_facts){
        .cpu_s = (double)(fields[STAT_USER] + fields[STAT_SYSTEM]) / ticks,
        .start_s = (double)fields[STAT_START] / ticks,
        .rss_bytes = fields[STAT_RSS] * (uint64_t)sysconf(_SC_PAGESIZE),
    };
    return true;
}

/* When the machine started, in seconds since 1970; 0: unknown. The line stands behind one that is
 * longer the more interrupts a machine has. */
static double read_boot_time(void)
{
    FILE *file = fopen("/proc/stat", "re");
    char *line = NULL;
    size_t size = 0;
    uint64_t boot = 0;

    if (file == NULL)
        return 0;
    while (getline(&line, &size, file) > 0 && sscanf(line, "btime %" SCNu64, &boot) != 1)
        continue;
    free(line);
    (void)fclose(file);
    return (double)boot;
}

uint64_t process_count_files(void)
{
    DIR *files = opendir("/proc/self/fd");
    uint64_t n = 0;

    if (files == NULL)
        return 0;
    while (readdir(files) != NULL)
        n++;
    (void)closedir(files);
    /* ".", ".." and the folder itself */
    return n > 3 ? n - 3 : 0;
}

static void write_sample(FILE *out, const char *name, const char *type, const char *help,
                         double value)
{
    (void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", name, help, name, type, name,
                  value);
}

void process_metrics_write(FILE *out, uint64_t open_files)
{
    struct process_facts facts;
    struct rlimit files;

    if (read_facts(&facts)) {
        write_sample(out, "process_cpu_seconds_total", "counter",
                     "Processor time, of user and system.", facts.cpu_s);
        write_sample(out, "process_resident_memory_bytes", "gauge", "Resident memory.",
                     (double)facts.rss_bytes);
        write_sample(out, "process_start_time_seconds", "gauge",
                     "When the process started, since 1970.", read_boot_time() + facts.start_s);
    }
    write_sample(out, "process_open_fds", "gauge", "Open files, counted every few seconds.",
                 (double)open_files);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        write_sample(out, "process_max_fds", "gauge", "How many files may be open.",
                     (double)files.rlim_cur);
}

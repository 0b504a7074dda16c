/* SPDX-License-Identifier: BSD-2-Clause */
/* From text to a configuration: the document is walked along the table of settings, fields get
 * their defaults and then what the file says, at last the whole is checked. Everything is in one
 * arena and goes with the last reference. */
#include "gateway/config/config.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "gateway/base/mem.h"
#include "gateway/config/check.h"
#include "gateway/config/field.h"
#include "gateway/config/settings.h"

/* What others know as struct config. */
struct config_owner {
    struct config config; /* first: config_owner_of() relies on it */
    atomic_size_t refs;
    struct arena arena; /* everything that config's pointers point to */
};

struct builder {
    struct report *report; /* borrowed for the parse */
    struct field_maker maker;
};

static void build_map(struct builder *builder, const struct setting *map_row, void *base,
                      const struct place *place);

/* --- one setting ------------------------------------------------------------------------------ */

static void build_defaults(struct builder *builder, const struct setting *map_row, void *base)
{
    char complaint[FIELD_COMPLAINT_SIZE];

    for (size_t i = 0; i < map_row->n_rows; i++) {
        const struct setting *row = &map_row->rows[i];
        if (row->type == SETTING_MAP) {
            build_defaults(builder, row, base);
        } else if (row->fallback != NULL) {
            const struct field_value value = {.text = str_c(row->fallback)};
            if (!field_assign(row, &builder->maker, base, value, complaint))
                report_line(builder->report, &(struct node){.line = 0}, row->key,
                            "the default is not valid: %s", complaint);
        }
    }
}

static bool build_scalar(struct builder *builder, const struct setting *row, void *base,
                         const struct place *place, size_t index)
{
    const struct field_value value = {.text = place->node->text, .index = index};
    char complaint[FIELD_COMPLAINT_SIZE];

    if (place->node->type != NODE_SCALAR) {
        report_error(builder->report, place, place->node, "a single value is expected (%s)",
                     row->help);
        return false;
    }
    if (!field_assign(row, &builder->maker, base, value, complaint)) {
        report_error(builder->report, place, place->node, "%s (%s)", complaint, row->help);
        return false;
    }
    return true;
}

/* ADDRESSES, WORDS and LIST. Items that were refused leave no gap. */
static void build_items(struct builder *builder, const struct setting *row, void *base,
                        const struct place *place)
{
    size_t n = 0;

    if (place->node->type != NODE_LIST) {
        report_error(builder->report, place, place->node, "a list is expected (%s)", row->help);
        return;
    }
    field_make_items(row, builder->maker.arena, base, place->node->n_children);
    for (size_t i = 0; i < place->node->n_children; i++) {
        const struct place item = {.parent = place, .node = node_at(place->node, i), .index = i};
        if (row->type == SETTING_LIST)
            build_map(builder, row, field_item(row, base, i), &item);
        else
            n += build_scalar(builder, row, base, &item, n);
    }
    if (row->type != SETTING_LIST)
        field_set_count(row, base, n);
}

/* An empty value is the default; where there is no default, nothing can be left empty. */
static void build_null(struct builder *builder, const struct setting *row,
                       const struct place *place)
{
    bool may_be_empty = row->type == SETTING_MAP || row->type == SETTING_LIST ||
                        row->type == SETTING_WORDS || (row->fallback == NULL && !row->required);

    if (!may_be_empty)
        report_error(builder->report, place, place->node, "a value is missing (%s)", row->help);
}

static void build_setting(struct builder *builder, const struct setting *row, void *base,
                          const struct place *place)
{
    if (place->node->type == NODE_NULL)
        build_null(builder, row, place);
    else if (row->type == SETTING_MAP)
        build_map(builder, row, base, place);
    else if (row->type == SETTING_LIST || row->type == SETTING_ADDRESSES ||
             row->type == SETTING_WORDS)
        build_items(builder, row, base, place);
    else
        (void)build_scalar(builder, row, base, place, 0);
}

/* --- maps ------------------------------------------------------------------------------------- */

static void build_unknown(struct builder *builder, const struct setting *map_row,
                          const struct place *place)
{
    const char *near = settings_suggest(map_row, place->key);

    if (near != NULL)
        report_error(builder->report, place, place->node->key, "unknown key; did you mean \"%s\"?",
                     near);
    else
        report_error(builder->report, place, place->node->key, "unknown key");
}

static void build_member(struct builder *builder, const struct setting *map_row, void *base,
                         const struct place *place)
{
    const struct setting *row = settings_find(map_row, place->key);
    const struct node *first = node_find(place->parent->node, place->key);

    if (first != place->node)
        report_error(builder->report, place, place->node->key,
                     "duplicate key; the first stands in line %zu", first->key->line);
    else if (row == NULL)
        build_unknown(builder, map_row, place);
    else
        build_setting(builder, row, base, place);
}

static void build_missing(struct builder *builder, const struct setting *map_row,
                          const struct place *place)
{
    for (size_t i = 0; i < map_row->n_rows; i++) {
        const struct setting *row = &map_row->rows[i];
        const struct place member = {.parent = place, .key = str_c(row->key)};
        if (row->required && node_find(place->node, member.key) == NULL)
            report_error(builder->report, &member, place->node, "is missing (%s)", row->help);
    }
}

static void build_map(struct builder *builder, const struct setting *map_row, void *base,
                      const struct place *place)
{
    const struct node *map = place->node;

    if (map_row->type == SETTING_LIST || place->parent == NULL)
        build_defaults(builder, map_row, base);
    if (map->type != NODE_MAP && map->type != NODE_NULL) {
        report_error(builder->report, place, map, "\"key: value\" lines are expected (%s)",
                     map_row->help);
        return;
    }
    for (struct node *child = map->first; child != NULL; child = child->next) {
        const struct place member = {.parent = place, .node = child, .key = child->key->text};
        build_member(builder, map_row, base, &member);
    }
    build_missing(builder, map_row, place);
}

/* --- what settings imply ---------------------------------------------------------------------- */

static size_t complete_workers(size_t workers)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (workers > 0)
        return workers;
    return cores < 1 ? 1 : cores > 1024 ? 1024 : (size_t)cores;
}

static void complete_routes(struct config *config)
{
    for (size_t i = 0; i < config->n_routes; i++) {
        struct config_route *route = &config->routes[i];
        for (size_t k = 0; route->backend != NULL && k < config->n_backends; k++) {
            const char *name = config->backends[k].name;
            if (name != NULL && strcmp(name, route->backend) == 0) {
                route->backend_index = k;
                break;
            }
        }
    }
}

/* What the item leaves unset is what `from`'s setting of the same key says. */
static void inherit(const struct setting *row, const struct node *node, void *base,
                    const struct setting *from, const struct config *config)
{
    const struct setting *same = settings_find(from, str_c(row->key));

    if (same == NULL)
        return;
    if (row->type != SETTING_MAP) {
        if (node == NULL || node->type == NODE_NULL)
            field_copy(same, config, row, base);
        return;
    }
    for (size_t i = 0; i < row->n_rows; i++)
        inherit(&row->rows[i], node_find(node, str_c(row->rows[i].key)), base, same, config);
}

static void complete_groups(struct config *config, const struct node *root)
{
    const struct setting *groups = settings_find(&settings_root, STR("groups"));
    const struct setting *rotation = settings_find(&settings_root, STR("rotation"));
    const struct node *list = node_find(root, STR("groups"));

    for (size_t i = 0; i < config->n_groups; i++) {
        const struct node *item = node_at(list, i);
        for (size_t k = 0; k < groups->n_rows; k++)
            inherit(&groups->rows[k], node_find(item, str_c(groups->rows[k].key)),
                    &config->groups[i], rotation, config);
    }
    config->rotation.admission.rules.groups = config->groups;
    config->rotation.admission.rules.n_groups = config->n_groups;
}

static void complete(struct config *config, const struct node *root, struct arena *arena)
{
    config->workers = complete_workers(config->workers);
    if (config->operator.socket == NULL)
        config->operator.socket =
            arena_concat(arena, str_c(config->state_dir), STR("/operator.sock"));
    complete_routes(config);
    complete_groups(config, root);
}

/* --- the whole -------------------------------------------------------------------------------- */

/* The folder of the file, with a slash at its end. */
static struct str folder_of(struct arena *arena, const char *path)
{
    const char *slash = strrchr(path, '/');
    struct str folder = {path, slash != NULL ? (size_t)(slash - path) + 1 : 0};
    char here[4096];

    while (str_starts(folder, STR("./")))
        folder = (struct str){folder.p + 2, folder.len - 2};
    if (str_starts(folder, STR("/")))
        return str_c(arena_copy(arena, folder));
    bool is_root = getcwd(here, sizeof(here)) == NULL || strcmp(here, "/") == 0;
    const char *start = arena_concat(arena, str_c(is_root ? "" : here), STR("/"));
    return str_c(arena_concat(arena, str_c(start), folder));
}

static void build_config(struct config_owner *owner, struct report *report, struct node *root)
{
    struct config *config = &owner->config;
    struct builder builder = {
        .report = report,
        .maker = {.arena = &owner->arena, .folder = folder_of(&owner->arena, config->path)},
    };
    const struct place place = {.parent = NULL, .node = root};
    struct checker checker = {.config = config, .root = root, .report = report};

    build_map(&builder, &settings_root, config, &place);
    complete(config, root, &owner->arena);
    check_config(&checker);
}

struct config *config_parse(const char *path, const char *text, size_t len,
                            config_error_fn *on_error, void *arg)
{
    struct report report = {.file = path, .on_error = on_error, .arg = arg};
    struct arena document = {NULL};
    struct node *root = document_parse(&document, &report, (struct str){text, len});
    const struct config *config = NULL;

    if (root != NULL) {
        struct config_owner *owner = mem_new(struct config_owner);
        atomic_init(&owner->refs, 1);
        owner->config.path = arena_copy(&owner->arena, str_c(path));
        config = &owner->config;
        build_config(owner, &report, root);
    }
    if (report.n_errors > 0)
        config_unref(&config);
    arena_release(&document);
    return (struct config *)(uintptr_t)config;
}

static void load_close_at(FILE **file)
{
    if (*file != NULL)
        (void)fclose(*file);
}

/* One byte more than a document may have shows that a file is too large. Returns NULL with errno
 * set. */
static char *load_text(const char *path, size_t *out_len)
{
    CLEANUP(load_close_at) FILE *file = fopen(path, "re");
    char *text;

    if (file == NULL)
        return NULL;
    text = mem_try_alloc(DOCUMENT_BYTES_MAX + 1);
    if (text == NULL)
        return NULL;
    size_t len = fread(text, 1, DOCUMENT_BYTES_MAX + 1, file);
    if (ferror(file)) {
        int why = errno;
        mem_free(text);
        errno = why;
        return NULL;
    }
    *out_len = len;
    return text;
}

struct config *config_load(const char *path, config_error_fn *on_error, void *arg)
{
    size_t len;

    CLEANUP(mem_free_at) char *text = load_text(path, &len);
    if (text == NULL) {
        CLEANUP(mem_free_at)
        char *line = mem_printf("%s: cannot be read: %s", path, strerror(errno));
        on_error(line, arg);
        return NULL;
    }
    return config_parse(path, text, len, on_error, arg);
}

/* Everybody but the count of references sees a constant. */
static struct config_owner *config_owner_of(const struct config *config)
{
    return (struct config_owner *)(uintptr_t)config;
}

struct config *config_ref(const struct config *config)
{
    struct config_owner *owner = config_owner_of(config);

    atomic_fetch_add_explicit(&owner->refs, 1, memory_order_relaxed);
    return &owner->config;
}

void config_unref(const struct config **config)
{
    if (*config == NULL)
        return;
    struct config_owner *owner = config_owner_of(*config);
    *config = NULL;
    if (atomic_fetch_sub_explicit(&owner->refs, 1, memory_order_acq_rel) > 1)
        return;
    arena_release(&owner->arena);
    mem_free(owner);
}

enum config_store_kind config_store_kind(const struct config *config)
{
    if (config->store.n_cluster > 0)
        return CONFIG_STORE_CLUSTER;
    if (config->store.sentinel.n_servers > 0)
        return CONFIG_STORE_SENTINEL;
    return config->store.redis != NULL ? CONFIG_STORE_REDIS : CONFIG_STORE_EMBEDDED;
}

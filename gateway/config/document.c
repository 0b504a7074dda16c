/* SPDX-License-Identifier: BSD-2-Clause */
/* libyaml's events, read recursively: reader_read() takes one event, and for the start of a list or
 * map everything up to its end. The depth is bounded, so is the recursion. */
#include "gateway/config/document.h"

#include <yaml.h>

#include "gateway/config/report.h"

struct reader {
    struct arena *arena;   /* borrowed for the parse */
    struct report *report; /* borrowed for the parse */
    struct str text;       /* borrowed for the parse */
    yaml_parser_t parser;
    size_t n_nodes;
};

enum reader_step {
    READER_FAILED, /* reported */
    READER_NODE,
    READER_CLOSED, /* the end of the list or map that is being read */
    READER_MARK,   /* the start of the stream, a document's start or end */
    READER_ENDED,  /* of the whole text */
};

static enum reader_step reader_read(struct reader *reader, size_t depth, struct node **out_node);

static enum reader_step reader_fail(struct reader *reader, const yaml_mark_t *mark, const char *why)
{
    const struct node at = {.line = mark->line + 1, .column = mark->column + 1};

    report_line(reader->report, &at, "", "%s", why);
    return READER_FAILED;
}

/* libyaml's reader tells bytes, not lines. */
static struct node reader_locate(const struct reader *reader, size_t offset)
{
    struct node at = {.line = 1, .column = 1};

    for (size_t i = 0; i < offset && i < reader->text.len; i++) {
        bool is_break = reader->text.p[i] == '\n';
        at.line += is_break;
        at.column = is_break ? 1 : at.column + 1;
    }
    return at;
}

static enum reader_step reader_fail_syntax(struct reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;
    const char *problem = parser->problem != NULL ? parser->problem : "not valid YAML";

    if (parser->error == YAML_READER_ERROR) {
        const struct node at = reader_locate(reader, parser->problem_offset);
        report_line(reader->report, &at, "", "%s", problem);
        return READER_FAILED;
    }
    const struct node at = {.line = parser->problem_mark.line + 1,
                            .column = parser->problem_mark.column + 1};
    if (parser->context != NULL)
        report_line(reader->report, &at, "", "%s (%s)", problem, parser->context);
    else
        report_line(reader->report, &at, "", "%s", problem);
    return READER_FAILED;
}

static bool reader_is_null(struct str text, yaml_scalar_style_t style)
{
    return style == YAML_PLAIN_SCALAR_STYLE &&
           (text.len == 0 || str_eq(text, STR("~")) || str_eq(text, STR("null")));
}

static struct node *reader_new_node(struct reader *reader, const yaml_event_t *event)
{
    struct node *node = arena_new(reader->arena, struct node);

    node->line = event->start_mark.line + 1;
    node->column = event->start_mark.column + 1;
    return node;
}

static void node_append(struct node *parent, struct node **last, struct node *child)
{
    if (*last == NULL)
        parent->first = child;
    else
        (*last)->next = child;
    *last = child;
    parent->n_children++;
}

static enum reader_step reader_read_scalar(struct reader *reader, const yaml_event_t *event,
                                           struct node **out_node)
{
    struct str text = {(const char *)event->data.scalar.value, event->data.scalar.length};
    struct node *node = reader_new_node(reader, event);

    node->type = reader_is_null(text, event->data.scalar.style) ? NODE_NULL : NODE_SCALAR;
    node->text = (struct str){arena_copy(reader->arena, text), text.len};
    *out_node = node;
    return READER_NODE;
}

static void node_index_items(struct arena *arena, struct node *list)
{
    size_t i = 0;

    list->items = arena_array(arena, list->n_children, sizeof(*list->items));
    for (struct node *child = list->first; child != NULL; child = child->next)
        list->items[i++] = child;
}

static enum reader_step reader_read_list(struct reader *reader, const yaml_event_t *event,
                                         size_t depth, struct node **out_node)
{
    struct node *list = reader_new_node(reader, event), *item, *last = NULL;
    enum reader_step step;

    list->type = NODE_LIST;
    while ((step = reader_read(reader, depth + 1, &item)) == READER_NODE) {
        if (list->n_children == DOCUMENT_ITEMS_MAX)
            return reader_fail(reader, &event->start_mark, "the list is too long");
        node_append(list, &last, item);
    }
    node_index_items(reader->arena, list);
    *out_node = list;
    return step == READER_CLOSED ? READER_NODE : READER_FAILED;
}

static enum reader_step reader_read_map(struct reader *reader, const yaml_event_t *event,
                                        size_t depth, struct node **out_node)
{
    struct node *map = reader_new_node(reader, event), *key, *value, *last = NULL;
    enum reader_step step;

    map->type = NODE_MAP;
    while ((step = reader_read(reader, depth + 1, &key)) == READER_NODE) {
        if (key->type == NODE_LIST || key->type == NODE_MAP)
            return reader_fail(reader, &event->start_mark, "a key must be a word");
        if (map->n_children == DOCUMENT_KEYS_MAX)
            return reader_fail(reader, &event->start_mark, "the map has too many keys");
        if (reader_read(reader, depth + 1, &value) != READER_NODE)
            return READER_FAILED;
        value->key = key;
        node_append(map, &last, value);
    }
    *out_node = map;
    return step == READER_CLOSED ? READER_NODE : READER_FAILED;
}

/* Anchors and tags may stand at any of the three kinds of nodes. */
static bool reader_is_adorned(const yaml_event_t *event)
{
    if (event->type == YAML_SCALAR_EVENT)
        return event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL;
    if (event->type == YAML_SEQUENCE_START_EVENT)
        return event->data.sequence_start.anchor != NULL || event->data.sequence_start.tag != NULL;
    if (event->type == YAML_MAPPING_START_EVENT)
        return event->data.mapping_start.anchor != NULL || event->data.mapping_start.tag != NULL;
    return event->type == YAML_ALIAS_EVENT;
}

static enum reader_step reader_take_event(struct reader *reader, const yaml_event_t *event,
                                          size_t depth, struct node **out_node)
{
    if (reader_is_adorned(event))
        return reader_fail(reader, &event->start_mark, "anchors, aliases and tags are not allowed");
    if (depth > DOCUMENT_DEPTH_MAX)
        return reader_fail(reader, &event->start_mark, "nested too deeply");
    if (++reader->n_nodes > DOCUMENT_NODES_MAX)
        return reader_fail(reader, &event->start_mark, "the document has too many parts");

    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return reader_read_scalar(reader, event, out_node);
    case YAML_SEQUENCE_START_EVENT:
        return reader_read_list(reader, event, depth, out_node);
    case YAML_MAPPING_START_EVENT:
        return reader_read_map(reader, event, depth, out_node);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        return READER_CLOSED;
    case YAML_STREAM_END_EVENT:
        return READER_ENDED;
    case YAML_STREAM_START_EVENT:
    case YAML_DOCUMENT_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        return READER_MARK;
    case YAML_NO_EVENT:
    case YAML_ALIAS_EVENT:
        break;
    }
    return reader_fail(reader, &event->start_mark, "not valid YAML");
}

static enum reader_step reader_read(struct reader *reader, size_t depth, struct node **out_node)
{
    yaml_event_t event;

    if (!yaml_parser_parse(&reader->parser, &event))
        return reader_fail_syntax(reader);
    enum reader_step step = reader_take_event(reader, &event, depth, out_node);
    yaml_event_delete(&event);
    return step;
}

static struct node *reader_read_root(struct reader *reader)
{
    struct node *root = NULL, *node;
    enum reader_step step;

    while ((step = reader_read(reader, 0, &node)) == READER_NODE || step == READER_MARK) {
        if (step == READER_MARK)
            continue;
        if (root != NULL) {
            report_line(reader->report, node, "", "the file must be a single document");
            return NULL;
        }
        root = node;
    }
    if (step != READER_ENDED)
        return NULL;
    if (root == NULL) {
        root = arena_new(reader->arena, struct node);
        root->line = root->column = 1;
    }
    return root;
}

struct node *document_parse(struct arena *arena, struct report *report, struct str text)
{
    struct reader reader = {.arena = arena, .report = report, .text = text};
    const struct node start = {.line = 1, .column = 1};

    if (text.len > DOCUMENT_BYTES_MAX) {
        report_line(report, &start, "", "the file is larger than 1 MiB");
        return NULL;
    }
    if (!yaml_parser_initialize(&reader.parser)) {
        report_line(report, &start, "", "the YAML parser found no memory");
        return NULL;
    }
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text.p, text.len);
    struct node *root = reader_read_root(&reader);
    yaml_parser_delete(&reader.parser);
    return root;
}

struct node *node_find(const struct node *map, struct str key)
{
    if (map == NULL || map->type != NODE_MAP)
        return NULL;
    for (struct node *child = map->first; child != NULL; child = child->next) {
        if (str_eq(child->key->text, key))
            return child;
    }
    return NULL;
}

struct node *node_at(const struct node *list, size_t index)
{
    if (list == NULL || list->type != NODE_LIST || index >= list->n_children)
        return NULL;
    return list->items[index];
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/greeting.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/mem.h"
#include "gateway/store/keys.h"
#include "gateway/store/refusal.h"
#include "gateway/store/reply.h"

enum { PASSWORD_MAX = 512 };

enum greeting_kind greeting_kind_of_servers(const struct config *config)
{
    switch (config_store_kind(config)) {
    case CONFIG_STORE_SENTINEL:
        return GREETING_MASTER;
    case CONFIG_STORE_CLUSTER:
        return GREETING_NODE;
    case CONFIG_STORE_EMBEDDED:
    case CONFIG_STORE_REDIS:
        break;
    }
    return GREETING_SERVER;
}

/* Who we are to a server, or to a sentinel. */
struct credentials_of {
    const char *setting;
    const char *username; /* NULL: none */
    const char *password_file;
};

static struct credentials_of greeting_credentials(const struct config *config,
                                                  enum greeting_kind kind)
{
    if (kind == GREETING_SENTINEL)
        return (struct credentials_of){"store.sentinel.password_file",
                                       config->store.sentinel.username,
                                       config->store.sentinel.password_file};
    return (struct credentials_of){"store.password_file", config->store.username,
                                   config->store.password_file};
}

static bool read_password(const struct credentials_of *who, char password[PASSWORD_MAX + 2],
                          char *error, size_t error_size)
{
    const char *path = who->password_file;
    FILE *file = fopen(path, "re");

    if (file == NULL) {
        (void)snprintf(error, error_size, "cannot open %s %s: %s", who->setting, path,
                       strerror(errno));
        return false;
    }
    bool is_read = fgets(password, PASSWORD_MAX + 2, file) != NULL;
    fclose(file);
    password[is_read ? strcspn(password, "\r\n") : 0] = '\0';
    size_t len = strlen(password);
    if (len > 0 && len <= PASSWORD_MAX)
        return true;
    (void)snprintf(error, error_size, "%s %s: the first line must have 1 to %d bytes", who->setting,
                   path, PASSWORD_MAX);
    return false;
}

bool greeting_has_password(const struct config *config, char *error, size_t error_size)
{
    static const enum greeting_kind kinds[] = {GREETING_SERVER, GREETING_SENTINEL};
    char password[PASSWORD_MAX + 2];

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct credentials_of who = greeting_credentials(config, kinds[i]);
        if (who.password_file != NULL && !read_password(&who, password, error, error_size))
            return false;
    }
    return true;
}

/* Adds one whole command to the text. */
static void append_command(char **text, const struct command *command)
{
    char head[COMMAND_HEAD_SIZE], *before = *text;
    size_t len;
    char *body = command_write(command, &len);

    (void)command_write_head(command->n_args, head);
    *text = mem_printf("%s%.*s%.*s", before != NULL ? before : "", (int)strcspn(head, "\n") + 1,
                       head, (int)len, body);
    mem_free(before);
    mem_free(body);
}

static void append_auth(char **text, const char *username, const char *password)
{
    struct command command;

    command_init(&command);
    command_add(&command, STR("AUTH"));
    if (username != NULL)
        command_add(&command, str_c(username));
    command_add(&command, str_c(password));
    append_command(text, &command);
}

static void append_word(char **text, const char *word)
{
    struct command command;

    command_init(&command);
    command_add(&command, str_c(word));
    append_command(text, &command);
}

static void append_partitions(char **text, const struct config *config, uint32_t partitions)
{
    struct command command;

    command_init(&command);
    command_add(&command, STR("SET"));
    keys_add_partitions(config, &command);
    command_add_int(&command, partitions);
    command_add(&command, STR("NX"));
    append_command(text, &command);

    command_init(&command);
    command_add(&command, STR("GET"));
    keys_add_partitions(config, &command);
    append_command(text, &command);
}

char *greeting_begin(struct greeting *greeting, enum greeting_kind kind,
                     const struct config *config, const struct store_address *address, char *error,
                     size_t error_size)
{
    struct credentials_of who = greeting_credentials(config, kind);
    bool has_data = kind <= GREETING_NODE;
    char password[PASSWORD_MAX + 2] = "";
    struct command command;
    char *text = NULL;

    *greeting = (struct greeting){
        .kind = kind,
        .partitions = config->store.partitions > 0 ? config->store.partitions : 1,
        .sends[GREETING_STEP_AUTH] = who.password_file != NULL,
        .sends[GREETING_STEP_PING] = !has_data,
        .sends[GREETING_STEP_ROLE] = kind == GREETING_MASTER,
        .sends[GREETING_STEP_SELECT] = address->database != 0,
        .sends[GREETING_STEP_CLAIM] = has_data,
        .sends[GREETING_STEP_COMPARE] = has_data,
    };
    if (greeting->sends[GREETING_STEP_AUTH]) {
        if (!read_password(&who, password, error, error_size))
            return NULL;
        append_auth(&text, who.username, password);
        explicit_bzero(password, sizeof(password));
    }
    if (greeting->sends[GREETING_STEP_PING])
        append_word(&text, "PING");
    if (greeting->sends[GREETING_STEP_ROLE])
        append_word(&text, "ROLE");
    if (greeting->sends[GREETING_STEP_SELECT]) {
        command_init(&command);
        command_add(&command, STR("SELECT"));
        command_add_int(&command, address->database);
        append_command(&text, &command);
    }
    if (has_data)
        append_partitions(&text, config, greeting->partitions);
    return text;
}

/* Errors that another attempt cannot mend have no kind of their own, or speak of rights. */
static enum greeting_progress greeting_fail(const char *text, const char *doing, char *error,
                                            size_t error_size)
{
    enum refusal refusal = refusal_classify(text);

    (void)snprintf(error, error_size, "%s: %s", doing, text);
    return refusal == REFUSAL_OTHER || refusal == REFUSAL_NOAUTH || refusal == REFUSAL_NOPERM
               ? GREETING_WRONG
               : GREETING_FAILED;
}

static enum greeting_progress greeting_compare(struct greeting *greeting, const redisReply *reply,
                                               char *error, size_t error_size)
{
    uint64_t partitions;

    if (reply->type == REDIS_REPLY_NIL)
        return greeting_fail(greeting->claim_error[0] != '\0' ? greeting->claim_error
                                                              : "LOADING it has vanished",
                             "writing the number of partitions", error, error_size);
    if (reply->type != REDIS_REPLY_STRING ||
        !str_to_u64((struct str){reply->str, reply->len}, &partitions))
        return greeting_fail("not a number", "reading the number of partitions", error, error_size);
    greeting->knows_layout = partitions == greeting->partitions;
    if (greeting->knows_layout)
        return GREETING_DONE;
    (void)snprintf(error, error_size,
                   "store.partitions is %u here, but the data in Redis is laid out for %llu",
                   greeting->partitions, (unsigned long long)partitions);
    return GREETING_WRONG;
}

static enum greeting_progress greeting_moved(struct greeting *greeting, const char *text,
                                             char *error, size_t error_size)
{
    if (greeting->kind != GREETING_NODE) {
        (void)snprintf(error, error_size,
                       "this is a node of a Redis Cluster: name it in store.cluster (%s)", text);
        return GREETING_WRONG;
    }
    if (greeting->step == GREETING_STEP_COMPARE)
        return GREETING_DONE;
    greeting->step++;
    return GREETING_MORE;
}

static enum greeting_progress greeting_error(struct greeting *greeting, const char *text,
                                             char *error, size_t error_size)
{
    static const char *const doing[GREETING_STEPS] = {
        [GREETING_STEP_AUTH] = "authenticating",
        [GREETING_STEP_PING] = "asking whether it is there",
        [GREETING_STEP_ROLE] = "asking for its role",
        [GREETING_STEP_SELECT] = "choosing the database",
        [GREETING_STEP_CLAIM] = "writing the number of partitions",
        [GREETING_STEP_COMPARE] = "reading the number of partitions",
    };

    if (refusal_classify(text) == REFUSAL_MOVED)
        return greeting_moved(greeting, text, error, error_size);
    /* A server that is full, or cannot write at the moment, can still be read. A replica cannot:
     * what it says may be old. */
    if (greeting->step == GREETING_STEP_CLAIM && refusal_classify(text) != REFUSAL_READONLY) {
        str_copy_cut(greeting->claim_error, sizeof(greeting->claim_error), str_c(text));
        greeting->step++;
        return GREETING_MORE;
    }
    return greeting_fail(text, doing[greeting->step], error, error_size);
}

static bool is_master(const redisReply *reply)
{
    const redisReply *role = reply_element(reply, 0);

    return role != NULL && str_eq(reply_text(role), STR("master"));
}

enum greeting_progress greeting_take_reply(struct greeting *greeting, const redisReply *reply,
                                           char *error, size_t error_size)
{
    while (!greeting->sends[greeting->step])
        greeting->step++;
    if (reply->type == REDIS_REPLY_ERROR)
        return greeting_error(greeting, reply->str, error, error_size);
    if (greeting->step == GREETING_STEP_COMPARE)
        return greeting_compare(greeting, reply, error, error_size);
    if (greeting->step == GREETING_STEP_PING)
        return GREETING_DONE;
    if (greeting->step == GREETING_STEP_ROLE && !is_master(reply))
        return greeting_fail("READONLY it is no master at the moment", "asking for its role", error,
                             error_size);
    greeting->step++;
    return GREETING_MORE;
}

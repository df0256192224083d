// SPDX-License-Identifier: GPL-2.0-or-later
/* state: see state.h. Blocking file I/O on the file system of the state directory, small files only. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "state.h"
#include "util.h"
#include "wall_time.h"

#define FORMAT 1

static const char *const status_names[] = { "initial-sync", "replicating", "released", "rolled-back" };

const char *state_status_name(enum state_status status)
{
	return status_names[status];
}

bool state_name_ok(const char *name)
{
	size_t n = name ? strlen(name) : 0;

	if (!n || n >= STATE_NAME_BYTES - 8 || name[0] == '.')
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
			return false;
	return true;
}

void state_init(struct state *state, const char *state_dir, const char *uuid)
{
	memset(state, 0, sizeof(*state));
	snprintf(state->dir, sizeof(state->dir), "%s/%s", state_dir, uuid);
	snprintf(state->uuid, sizeof(state->uuid), "%s", uuid);
	state->created_ms = util_wall_ms();
	tags_restart(&state->tags);
}

void state_position_clear(struct state_position *position)
{
	json_decref(position->mismatch);
	json_decref(position->tag);
	memset(position, 0, sizeof(*position));
}

void state_position_copy(struct state_position *to, const struct state_position *from)
{
	json_t *mismatch = json_deep_copy(from->mismatch);

	json_t *tag = json_incref(from->tag);

	state_position_clear(to);
	*to = *from;
	to->mismatch = mismatch;
	to->tag = tag;
}

void state_clear(struct state *state)
{
	for (size_t i = 0; i < state->disk_count; i++)
		json_decref(state->disks[i].identity);
	free(state->disks);
	json_decref(state->last_mismatch);
	tags_clear(&state->tags);
	state_position_clear(&state->partial);
	json_decref(state->now);
	memset(state, 0, sizeof(*state));
}

struct state_disk *state_disk(const struct state *state, const char *name)
{
	for (size_t i = 0; i < state->disk_count; i++)
		if (!strcmp(state->disks[i].name, name))
			return &state->disks[i];
	return NULL;
}

struct state_disk *state_disk_add(struct state *state, const char *name)
{
	struct state_disk *disk = state_disk(state, name);

	if (disk || state->disk_count >= STATE_DISKS_MAX)
		return disk;
	disk = reallocarray(state->disks, state->disk_count + 1, sizeof(*disk));
	if (!disk)
		return NULL;
	state->disks = disk;
	disk += state->disk_count++;
	memset(disk, 0, sizeof(*disk));
	snprintf(disk->name, sizeof(disk->name), "%s", name);
	return disk;
}

void state_mismatch_add(json_t **list, uint32_t disk, uint64_t offset, uint64_t length)
{
	if (!*list)
		*list = json_array();
	size_t n = json_array_size(*list);
	json_t *last = n ? json_array_get(*list, n - 1) : NULL;

	if (last && (uint32_t)json_integer_value(json_object_get(last, "disk")) == disk) {
		uint64_t from = (uint64_t)json_integer_value(json_object_get(last, "offset"));
		uint64_t bytes = (uint64_t)json_integer_value(json_object_get(last, "length"));

		/* At the cap the last entry grows over what lies between: more, never less. */
		if (from + bytes == offset || (n >= STATE_MISMATCH_MAX && offset >= from)) {
			json_object_set_new(last, "length",
					    json_integer((json_int_t)(offset + length - from)));
			return;
		}
	}
	if (n < STATE_MISMATCH_MAX)
		json_array_append_new(*list, json_pack("{s:I, s:I, s:I}", "disk", (json_int_t)disk,
						       "offset", (json_int_t)offset, "length",
						       (json_int_t)length));
}

/* 64-bit random numbers do not fit a JSON integer (signed): as hexadecimal text. */
static json_t *hex(uint64_t value)
{
	return json_sprintf("%016llx", (unsigned long long)value);
}

static uint64_t number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	if (json_is_string(value))
		return strtoull(json_string_value(value), NULL, 16);
	return (uint64_t)json_integer_value(value);
}

static json_t *position_json(const struct state *state)
{
	const struct state_position *p = &state->partial;

	if (!p->seq)
		return json_null();
	json_t *verified = json_object();

	for (size_t i = 0; i < state->disk_count; i++)
		if (p->verified[i])
			json_object_set_new(verified, state->disks[i].name,
					    json_integer((json_int_t)p->verified[i]));
	return json_pack("{s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:b, s:o, s:O?, s:O?}", "epoch",
			 (json_int_t)p->epoch, "attempt", hex(p->attempt), "digest", hex(p->digest),
			 "bytes", (json_int_t)p->bytes, "expected_bytes", (json_int_t)p->expected,
			 "flags", (json_int_t)p->flags, "seq", (json_int_t)p->seq, "verifying",
			 p->verifying, "verified", verified, "mismatch", p->mismatch, "tag", p->tag);
}

static json_t *undo_json(const struct state *state)
{
	char log[UNDO_UUID_TEXT];

	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:O?}", "log", undo_uuid_text(state->undo.log, log), "number", (json_int_t)state->number,
			 "top", (json_int_t)state->undo.top, "open", (json_int_t)state->undo.open, "rollback_to",
			 (json_int_t)state->undo.rollback_to, "rollback_from", (json_int_t)state->rollback_from,
			 "now", state->now);
}

int state_save(const struct state *state)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_JSON json_t *root = NULL;
	json_t *disks = json_array();
	int r;

	for (size_t i = 0; i < state->disk_count; i++) {
		const struct state_disk *d = &state->disks[i];

		json_array_append_new(disks, json_pack("{s:s, s:I, s:s, s:I, s:b, s:b, s:O?}", "name",
						       d->name, "id", (json_int_t)d->id, "path", d->path,
						       "source_bytes", (json_int_t)d->source_bytes,
						       "created", d->created, "written", d->written,
						       "identity", d->identity));
	}
	root = json_pack("{s:i, s:s, s:s, s:s, s:I, s:I, s:O?, s:o, s:o, s:I, s:I, s:I, s:o, s:b, s:o}", "format",
			 FORMAT, "machine", state->uuid, "host", state->host, "status",
			 state_status_name(state->status), "last_applied",
			 (json_int_t)state->last_applied, "max_epoch", (json_int_t)state->max_epoch,
			 "mismatch", state->last_mismatch, "partial", position_json(state), "disks",
			 disks, "created_ms", (json_int_t)state->created_ms, "applied_ms",
			 (json_int_t)state->applied_ms, "released_ms", (json_int_t)state->released_ms, "tags",
			 tags_save(&state->tags), "between", state->between, "undo",
			 undo_json(state));
	if (!root || json_array_size(disks) != state->disk_count)
		return -ENOMEM;
	r = util_mkdirs(state->dir);
	if (r)
		return r;
	if (asprintf(&path, "%s/state.json", state->dir) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	return util_write_json(path, root);
}

static int load_disk(struct state *state, const json_t *json)
{
	const char *name = json_string_value(json_object_get(json, "name"));
	const char *path = json_string_value(json_object_get(json, "path"));
	struct state_disk *disk = name && path && state_name_ok(name) ? state_disk_add(state, name) : NULL;

	if (!disk || !json_is_object(json_object_get(json, "identity")))
		return -EBADMSG;
	snprintf(disk->path, sizeof(disk->path), "%s", path);
	disk->id = (uint32_t)number(json, "id");
	disk->source_bytes = number(json, "source_bytes");
	disk->created = json_is_true(json_object_get(json, "created"));
	disk->written = json_is_true(json_object_get(json, "written"));
	disk->identity = json_incref(json_object_get(json, "identity"));
	return 0;
}

static void load_position(struct state *state, const json_t *json)
{
	struct state_position *p = &state->partial;
	const json_t *verified = json_object_get(json, "verified");
	json_t *mismatch = json_object_get(json, "mismatch");
	json_t *tag = json_object_get(json, "tag");

	p->epoch = number(json, "epoch");
	p->attempt = number(json, "attempt");
	p->digest = number(json, "digest");
	p->bytes = number(json, "bytes");
	p->expected = number(json, "expected_bytes");
	p->flags = (uint32_t)number(json, "flags");
	p->seq = (uint32_t)number(json, "seq");
	p->verifying = json_is_true(json_object_get(json, "verifying"));
	p->mismatch = json_is_array(mismatch) ? json_incref(mismatch) : NULL;
	p->tag = json_is_object(tag) ? json_incref(tag) : NULL;
	for (size_t i = 0; i < state->disk_count; i++)
		p->verified[i] = number(verified, state->disks[i].name);
}

static int load_undo(struct state *state, const json_t *json)
{
	const char *log = json_string_value(json_object_get(json, "log"));
	json_t *now = json_object_get(json, "now");

	if (!json)
		return 0; /* a file of an older release */
	if (!log || !undo_uuid_parse(log, state->undo.log))
		return -EBADMSG;
	state->undo.top = (uint64_t)json_integer_value(json_object_get(json, "top"));
	state->undo.open = (uint64_t)json_integer_value(json_object_get(json, "open"));
	state->undo.rollback_to = (uint64_t)json_integer_value(json_object_get(json, "rollback_to"));
	state->rollback_from = (uint64_t)json_integer_value(json_object_get(json, "rollback_from"));
	state->number = (uint64_t)json_integer_value(json_object_get(json, "number"));
	state->now = json_is_object(now) ? json_incref(now) : NULL;
	return state->undo.top < state->number || state->undo.top < state->undo.open ? -EBADMSG : 0;
}

static int load_json(struct state *state, const json_t *root)
{
	const char *host = json_string_value(json_object_get(root, "host"));
	const char *uuid = json_string_value(json_object_get(root, "machine"));
	const char *status = json_string_value(json_object_get(root, "status"));
	json_t *mismatch = json_object_get(root, "mismatch");
	const json_t *partial = json_object_get(root, "partial");
	const json_t *disk;
	size_t i;

	if (json_integer_value(json_object_get(root, "format")) != FORMAT || !host || !uuid ||
	    !status || strcmp(uuid, state->uuid) ||
	    !json_is_integer(json_object_get(root, "last_applied")))
		return -EBADMSG;
	for (i = 0; i < ARRAY_LENGTH(status_names) && strcmp(status, status_names[i]);)
		i++;
	if (i == ARRAY_LENGTH(status_names))
		return -EBADMSG;
	state->status = (enum state_status)i;
	snprintf(state->host, sizeof(state->host), "%s", host);
	state->last_applied = number(root, "last_applied");
	state->max_epoch = number(root, "max_epoch");
	/* A file of an older release does not say. */
	state->between = !json_is_false(json_object_get(root, "between"));
	state->created_ms = number(root, "created_ms");
	state->applied_ms = number(root, "applied_ms");
	state->released_ms = number(root, "released_ms");
	state->last_mismatch = json_is_array(mismatch) ? json_incref(mismatch) : NULL;
	tags_load(&state->tags, json_object_get(root, "tags"));
	json_array_foreach(json_object_get(root, "disks"), i, disk) {
		int r = load_disk(state, disk);

		if (r)
			return r;
	}
	if (json_is_object(partial))
		load_position(state, partial);
	return load_undo(state, json_object_get(root, "undo"));
}

int state_load(struct state *state, const char *state_dir, const char *uuid, char *error,
	       size_t error_bytes)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_JSON json_t *root = NULL;
	char why[256] = "";
	int r;

	state_init(state, state_dir, uuid);
	if (asprintf(&path, "%s/state.json", state->dir) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	r = util_read_json(path, &root, why, sizeof(why));
	if (r == -ENOENT)
		return r;
	if (!r) {
		r = load_json(state, root);
		if (r)
			snprintf(why, sizeof(why), "a field is missing, or of an unknown format");
	}
	if (r)
		snprintf(error, error_bytes, "%s: cannot read: %s", path, why[0] ? why : strerror(-r));
	return r;
}

bool state_log_known(const struct state *state)
{
	static const uint8_t none[UNDO_UUID_BYTES];

	return memcmp(state->undo.log, none, sizeof(none)) != 0;
}

static uint64_t between_ms(const json_t *before, const char *key, uint64_t now)
{
	uint64_t then = number(before, key);

	return now > then ? now - then : 0;
}

static uint64_t active_ms(const json_t *before, bool cut_known, uint64_t cut_ms, uint64_t applied_ms)
{
	uint64_t gap = between_ms(before, "applied_ms", applied_ms), cuts = between_ms(before, "time_ms", cut_ms);

	if (!before)
		return 0;
	if (cut_known && json_object_get(before, "time") && cuts < gap)
		gap = cuts;
	return number(before, "active_ms") + (gap < STATE_PAUSE_MS ? gap : STATE_PAUSE_MS);
}

json_t *state_describe(const struct state *state, uint64_t epoch, bool consistent, const json_t *tag)
{
	const char *kind = json_string_value(json_object_get(tag, "kind"));
	const char *name = json_string_value(json_object_get(tag, "name"));
	const char *time = json_string_value(json_object_get(tag, "time"));
	uint64_t now = util_wall_ms(), cut = now;
	json_t *disks = json_array(), *what;
	char own[32];

	if (!time || wall_time_parse(time, now, &cut, NULL)) {
		cut = now;
		time = NULL;
	}
	snprintf(own, sizeof(own), "epoch-%llu", (unsigned long long)epoch);
	for (size_t i = 0; i < state->disk_count; i++) {
		const struct state_disk *d = &state->disks[i];

		json_array_append_new(disks, json_pack("{s:I, s:s, s:s, s:I}", "id", (json_int_t)d->id, "name", d->name,
						       "path", d->path, "size_bytes", (json_int_t)d->source_bytes));
	}
	what = json_pack("{s:I, s:b, s:s, s:s, s:s*, s:I, s:I, s:I, s:o}", "epoch", (json_int_t)epoch, "consistent", consistent,
			 "kind", kind ? kind : "epoch", "name", name ? name : own, "time", time, "time_ms",
			 (json_int_t)cut, "applied_ms", (json_int_t)now, "active_ms",
			 (json_int_t)active_ms(state->now, time, cut, now), "disks", disks);
	return what;
}

int state_forget(const struct state *state)
{
	CLEANUP_FREE char *path = NULL;
	CLEANUP_FREE char *parent = strdup(state->dir);
	CLEANUP_FD int fd = -1;

	if (!parent || asprintf(&path, "%s/state.json", state->dir) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	if (rmdir(state->dir) < 0 && errno != ENOENT && errno != ENOTEMPTY)
		return -errno;
	*strrchr(parent, '/') = 0;
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

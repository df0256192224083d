// SPDX-License-Identifier: GPL-2.0-or-later
/* undo_log: see undo_log.h. Blocking calls on the retention volume, small files only. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "log.h"
#include "undo_file.h"
#include "undo_log.h"
#include "undo_use.h"
#include "util.h"

static void count_bytes(struct undo_log *log)
{
	log->bytes = 0;
	for (size_t i = 0; i < log->chain.count; i++)
		log->bytes += log->chain.entries[i].bytes;
}

static void publish(const struct undo_log *log)
{
	struct undo_tail tail = { .committed = log->committed };

	memcpy(tail.log, log->uuid, sizeof(tail.log));
	undo_tail_publish(log->tail, &tail);
}

/* Marks that cannot be read cost pins and verdicts, not points: said, and begun anew. */
static int load_marks(struct undo_log *log)
{
	char why[256] = "";
	int r = util_read_json(log->marks_path, &log->marks, why, sizeof(why));

	if (!r && !json_is_object(log->marks))
		r = -EBADMSG;
	if (r && r != -ENOENT)
		log_error("%s: cannot read: %s (pins and verdicts of recovery points are lost: pin again what has to stay)",
			  log->marks_path, why[0] ? why : strerror(-r));
	if (r) {
		json_decref(log->marks);
		log->marks = json_object();
	}
	return log->marks ? 0 : -ENOMEM;
}

static void remove_strays(struct undo_log *log)
{
	for (size_t i = 0; i < log->chain.stray_count; i++) {
		int r = undo_unlink(log->dir, log->chain.stray[i]);

		if (r && r != -ENOENT)
			log_warning("%s/%s: cannot remove: %s (nothing needs it)", log->path, log->chain.stray[i],
				    strerror(-r));
	}
	free(log->chain.stray);
	log->chain.stray = NULL;
	log->chain.stray_count = 0;
}

int undo_log_open(struct undo_log *log, const char *retention, const char *machine, const char *state_dir,
		  const uint8_t uuid[UNDO_UUID_BYTES], uint64_t committed, bool create, char *error, size_t error_bytes)
{
	int r = 0;

	memset(log, 0, sizeof(*log));
	log->committed = committed;
	memcpy(log->uuid, uuid, UNDO_UUID_BYTES);
	if ((size_t)snprintf(log->path, sizeof(log->path), "%s/%s", retention, machine) >= sizeof(log->path))
		r = -ENAMETOOLONG;
	snprintf(log->marks_path, sizeof(log->marks_path), "%s/marks.json", state_dir);
	if (!r && create)
		r = util_mkdirs(log->path);
	log->dir = r ? -1 : open(log->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!r && log->dir < 0)
		r = -errno;
	if (!r && create)
		r = undo_use_prepare(log->dir);
	if (!r)
		r = undo_tail_map(&log->tail, log->dir, true);
	if (!r)
		r = load_marks(log);
	if (!r)
		r = undo_chain_load(&log->chain, log->dir, log->uuid, committed);
	if (r) {
		snprintf(error, error_bytes, "undo log %s: cannot open: %s", log->path, strerror(-r));
		undo_log_close(log);
		return r;
	}
	if (log->chain.gap)
		log_error("undo log %s: %s; recovery points before that are lost", log->path, log->chain.why);
	remove_strays(log);
	count_bytes(log);
	if (!log->chain.open.last)
		publish(log);
	return 0;
}

void undo_log_close(struct undo_log *log)
{
	if (log->dir > 0)
		close(log->dir);
	if (log->tail)
		undo_tail_unmap(log->tail);
	undo_chain_clear(&log->chain);
	json_decref(log->marks);
	memset(log, 0, sizeof(*log));
	log->dir = -1;
}

int undo_log_sealed(struct undo_log *log, const struct undo_entry *entry)
{
	struct undo_chain *chain = &log->chain;
	struct undo_entry *entries = reallocarray(chain->entries, chain->count + 1, sizeof(*entries));

	if (!entries)
		return -ENOMEM;
	chain->entries = entries;
	chain->entries[chain->count++] = *entry;
	json_decref(chain->open.meta);
	memset(&chain->open, 0, sizeof(chain->open));
	log->committed = entry->last;
	log->bytes += entry->bytes;
	publish(log);
	return 0;
}

static int remove_layer(const struct undo_log *log, const struct undo_entry *entry)
{
	char name[UNDO_NAME_BYTES];
	int r;

	undo_layer_name(name, entry->base, entry->last);
	r = undo_unlink(log->dir, name);
	return r == -ENOENT ? 0 : r;
}

/* Take @count entries from @first out of the list; their files are somebody else's business. */
static void forget_entries(struct undo_log *log, size_t first, size_t count)
{
	struct undo_chain *chain = &log->chain;

	for (size_t i = first; i < first + count; i++) {
		log->bytes -= chain->entries[i].bytes;
		json_decref(chain->entries[i].meta);
	}
	memmove(chain->entries + first, chain->entries + first + count,
		(chain->count - first - count) * sizeof(*chain->entries));
	chain->count -= count;
}

void undo_log_committed(struct undo_log *log, uint64_t committed)
{
	while (log->chain.count)
		if (undo_log_drop(log))
			forget_entries(log, 0, 1); /* a stray: removed at the next start */
	log->committed = committed;
	publish(log);
}

void undo_log_undone(struct undo_log *log)
{
	struct undo_entry *open = &log->chain.open;
	char name[UNDO_NAME_BYTES];

	undo_layer_name(name, open->base, open->last);
	json_decref(open->meta);
	memset(open, 0, sizeof(*open));
	publish(log);		     /* first, so that nobody looks for the file */
	undo_unlink(log->dir, name); /* else it is a stray, and goes at the next start */
}

struct undo_entry *undo_log_entry(const struct undo_log *log, uint64_t base)
{
	for (size_t i = 0; i < log->chain.count; i++)
		if (log->chain.entries[i].base == base)
			return &log->chain.entries[i];
	return NULL;
}

void undo_log_forsake(struct undo_log *log)
{
	static const struct undo_tail none;

	undo_tail_publish(log->tail, &none);
}

static void forget_marks(struct undo_log *log, uint64_t id)
{
	char key[24];

	snprintf(key, sizeof(key), "%" PRIu64, id);
	json_object_del(log->marks, key);
}

int undo_log_drop(struct undo_log *log)
{
	int r;

	if (!log->chain.count)
		return -ENOENT;
	r = remove_layer(log, &log->chain.entries[0]);
	if (r)
		return r;
	forget_marks(log, log->chain.entries[0].base);
	forget_entries(log, 0, 1);
	return 0;
}

int undo_log_merged(struct undo_log *log, const struct undo_entry *entry)
{
	struct undo_chain *chain = &log->chain;
	const struct undo_entry *oldest = undo_log_entry(log, entry->base);
	size_t first = oldest ? (size_t)(oldest - chain->entries) : chain->count, end;
	int r = 0;

	for (end = first; end < chain->count && chain->entries[end].last != entry->last;)
		end++;
	if (end == chain->count)
		return -ENOENT;
	/* The new one is wider than any of them: after a crash in between it is the one that counts. */
	for (size_t i = first; i <= end; i++) {
		int one = remove_layer(log, &chain->entries[i]);

		if (i > first)
			forget_marks(log, chain->entries[i].base);
		r = r ? r : one;
	}
	log->bytes += entry->bytes;
	forget_entries(log, first, end - first);
	log->bytes -= chain->entries[first].bytes;
	json_decref(chain->entries[first].meta);
	chain->entries[first] = *entry;
	return r;
}

bool undo_log_used(const struct undo_log *log, uint64_t *oldest)
{
	return undo_use_oldest(log->dir, oldest);
}

bool undo_log_state_used(const struct undo_log *log, uint64_t id)
{
	return undo_use_held(log->dir, id);
}

static int set_mark(json_t *all, uint64_t id, const char *key, json_t *value)
{
	char name[24];
	json_t *marks;

	snprintf(name, sizeof(name), "%" PRIu64, id);
	marks = json_object_get(all, name);
	if (!marks) {
		marks = json_object();
		if (json_object_set_new(all, name, marks))
			return -ENOMEM;
	}
	if (!value) {
		json_object_del(marks, key);
		return 0;
	}
	return json_object_set(marks, key, value) ? -ENOMEM : 0;
}

int undo_log_mark_all(struct undo_log *log, const uint64_t *ids, size_t count, const char *key, json_t *value)
{
	CLEANUP_JSON json_t *marks = json_deep_copy(log->marks); /* what cannot be written is not so */
	int r = marks ? 0 : -ENOMEM;

	for (size_t i = 0; i < count && !r; i++)
		r = set_mark(marks, ids[i], key, value);
	if (!r)
		r = util_write_json(log->marks_path, marks);
	if (r)
		return r;
	json_decref(log->marks);
	log->marks = json_incref(marks);
	return 0;
}

int undo_log_mark(struct undo_log *log, uint64_t id, const char *key, json_t *value)
{
	CLEANUP_JSON json_t *taken = value;

	return undo_log_mark_all(log, &id, 1, key, taken);
}

const json_t *undo_log_marked(const struct undo_log *log, uint64_t id, const char *key)
{
	char name[24];

	snprintf(name, sizeof(name), "%" PRIu64, id);
	return json_object_get(json_object_get(log->marks, name), key);
}

static int remove_below(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir) {
		r = errno == ENOENT ? 0 : -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") &&
		    unlinkat(fd, entry->d_name, 0) && errno != ENOENT && errno != EISDIR)
			r = -errno;
	closedir(dir);
	if (!r && unlinkat(parent, name, AT_REMOVEDIR) && errno != ENOENT)
		r = -errno;
	return r;
}

int undo_log_remove(struct undo_log *log)
{
	CLEANUP_FREE char *path = strdup(log->path);
	CLEANUP_FD int parent = -1;
	char *slash = path ? strrchr(path, '/') : NULL;
	int r;

	if (!slash)
		return -ENOMEM;
	*slash = 0;
	parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent < 0)
		return -errno;
	undo_log_forsake(log);
	if (unlink(log->marks_path) && errno != ENOENT)
		log_warning("%s: cannot remove: %s (nothing needs it)", log->marks_path, strerror(errno));
	r = remove_below(log->dir, "use");
	if (!r)
		r = remove_below(parent, slash + 1);
	return r ? r : undo_sync_dir(parent);
}

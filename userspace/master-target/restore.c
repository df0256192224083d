// SPDX-License-Identifier: GPL-2.0-or-later
/* restore: see restore.h. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#include "log.h"
#include "restore.h"
#include "util.h"

/* A read of records that lie one behind the other, in the file and on the disk. */
struct restore_read {
	struct io_request io;
	struct restore *restore;
	const struct undo_piece *pieces;
	size_t count;
	char *buffer;
	uint32_t skip; /* bytes in the buffer before the first record */
	bool used, ready;
};

static void pump(struct restore *restore);

/* ---- reading the layers ----------------------------------------------------- */

static int broken(struct fault *fault, const struct restore *restore, const char *layer, const char *why, int error)
{
	bool damaged = error == -EBADMSG || error == -ENODATA || error == -ENOENT || error == -EPROTONOSUPPORT;

	return fault_set(fault, -1, damaged ? "undo-damaged" : error == -ENOMEM ? "busy" : "io", damaged,
			 damaged ? "choose a newer recovery point (reprotect points list); to begin anew: reprotect points discard "
				   "<machine> --all, then reprotect resync" :
				   "check the retention volume (dmesg), then try again",
			 "machine %s: undo log %s: cannot read layer %s: %s", restore->name, restore->log->path, layer,
			 *why ? why : strerror(-error));
}

static int add_layer(struct restore *restore, const struct undo_entry *entry, struct fault *fault)
{
	struct undo_layer *layer = &restore->layers[restore->layer_count];
	CLEANUP_FREE struct undo_record *records = NULL;
	char name[UNDO_NAME_BYTES], why[256] = "";
	struct undo_scan scan = { 0 };
	size_t count = 0;
	int r;

	undo_layer_name(name, entry->base, entry->last);
	r = undo_layer_open(layer, restore->log->dir, name, restore->log->uuid, why, sizeof(why));
	if (r)
		return broken(fault, restore, name, why, r);
	restore->layer_count++;
	if (layer->sealed) {
		r = undo_layer_records(layer, &records, &count);
	} else {
		r = undo_layer_scan(layer, &scan, UINT64_MAX, true, &records, &count);
		if (!r && count)
			qsort(records, count, sizeof(*records), undo_record_order);
	}
	if (!r)
		r = undo_map_add(&restore->map, records, count, (uint16_t)(restore->layer_count - 1));
	return r ? broken(fault, restore, name, "", r) : 0;
}

/* A layer needs a descriptor: as many as the system lets us have. */
static void raise_limit(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int read_layers(struct restore *restore, uint64_t base, bool open, struct fault *fault)
{
	const struct undo_chain *chain = &restore->log->chain;
	const struct undo_entry *entry, *end = chain->entries + chain->count;

	if (open)
		return add_layer(restore, &chain->open, fault);
	entry = undo_log_entry(restore->log, base);
	if (!entry || end - entry > UNDO_MAP_LAYERS_MAX)
		return fault_set(fault, -1, "unknown-point", false, "reprotect points list shows what there is",
				 "machine %s: state %" PRIu64 " is not in its undo log", restore->name, base);
	for (; entry < end; entry++)
		if (add_layer(restore, entry, fault))
			return -1;
	return 0;
}

int restore_open(struct restore *restore, uint64_t base, bool open, struct fault *fault)
{
	size_t most = restore->log->chain.count + 1;
	int r;

	raise_limit();
	restore->layers = calloc(most, sizeof(*restore->layers));
	restore->reads = calloc(RESTORE_READS, sizeof(*restore->reads));
	r = !restore->layers || !restore->reads ?
		    fault_set(fault, -1, "busy", false, "free memory on the master target", "machine %s: out of memory",
			      restore->name) :
		    read_layers(restore, base, open, fault);
	if (!r && undo_map_join(&restore->map))
		r = fault_set(fault, -1, "busy", false, "free memory on the master target", "machine %s: out of memory",
			      restore->name);
	if (r) {
		restore_close(restore);
		return r;
	}
	for (size_t i = 0; restore->map.count && i < restore->map.runs[0].count; i++)
		restore->total_bytes += restore->map.runs[0].pieces[i].length;
	return 0;
}

void restore_close(struct restore *restore)
{
	for (size_t i = 0; i < restore->layer_count; i++)
		undo_layer_close(&restore->layers[i]);
	free(restore->layers);
	free(restore->reads);
	undo_map_clear(&restore->map);
	restore->layers = NULL;
	restore->reads = NULL;
	restore->layer_count = restore->next = 0;
	restore->step = RESTORE_IDLE;
}

/* ---- copying ---------------------------------------------------------------- */

static const struct undo_piece *pieces(const struct restore *restore, size_t *count)
{
	*count = restore->map.count ? restore->map.runs[0].count : 0;
	return *count ? restore->map.runs[0].pieces : NULL;
}

static void fail(struct restore *restore)
{
	restore->failed = true;
	restore->step = RESTORE_END;
	pump(restore);
}

#define FAIL(restore, code, fatal, remedy, ...)                                          \
	do {                                                                             \
		if (!(restore)->failed)                                                  \
			fault_set(&(restore)->fault, 0, code, fatal, remedy, __VA_ARGS__); \
		fail(restore);                                                           \
	} while (0)

#define TARGET_REMEDY "check the target disk (dmesg, smartctl) and its path; it is tried again by itself"

static void write_failed(void *user, const struct target *target, const char *action, uint64_t offset, uint64_t length,
			 int error)
{
	struct restore *restore = user;

	FAIL(restore, "io", false, TARGET_REMEDY, "disk %s/%s: cannot %s %" PRIu64 " bytes at %" PRIu64 " of target %s: %s",
	     restore->name, target->name, action, length, offset, target->path, strerror(-error));
}

static void undo_broke(void *user, const struct target *target, const char *action, uint64_t offset, uint64_t length,
		       int error)
{
	struct restore *restore = user;

	if (target)
		write_failed(user, target, action, offset, length, error);
	else
		FAIL(restore, error == -ENOSPC ? "no-space" : "io", false,
		     error == -ENOSPC ? "free space on the retention volume or enlarge it: what a rollback overwrites is kept, so "
					"that it can be taken back" :
					"check the retention volume (dmesg)",
		     "machine %s: cannot %s its undo log in %s: %s", restore->name, action, restore->log->path,
		     strerror(-error));
}

static struct target *target_of(const struct restore *restore, uint32_t disk)
{
	for (size_t i = 0; i < restore->target_count; i++)
		if (restore->targets[i].id == disk)
			return &restore->targets[i];
	return NULL;
}

/* How many pieces from @first on lie one behind the other and fit into one buffer. */
static size_t together(const struct undo_piece *first, size_t left)
{
	uint64_t bytes = first->record_length;
	size_t count = 1;

	if (first->skip || first->length != first->record_length)
		return 1;
	for (; count < left; count++) {
		const struct undo_piece *a = &first[count - 1], *b = &first[count];

		if (b->flags & UNDO_ZERO || b->layer != a->layer || b->disk != a->disk || b->skip ||
		    b->length != b->record_length || b->offset != a->offset + a->length ||
		    b->place != a->place + a->length || bytes + b->length > POOL_LARGE_BYTES - UNDO_BLOCK)
			break;
		bytes += b->length;
	}
	return count;
}

static bool check_records(struct restore *restore, const struct restore_read *read)
{
	const char *at = read->buffer + read->skip;

	for (size_t i = 0; i < read->count; i++) {
		const struct undo_piece *piece = &read->pieces[i];
		char name[UNDO_NAME_BYTES];

		if (wire_crc(at, piece->record_length) == piece->crc) {
			at += piece->record_length;
			continue;
		}
		undo_layer_name(name, restore->layers[piece->layer].head.base, restore->layers[piece->layer].head.last);
		FAIL(restore, "undo-damaged", true,
		     "check the retention volume (dmesg, smartctl); choose a newer recovery point (reprotect points list)",
		     "machine %s: undo log %s: layer %s: the content of disk %u at %" PRIu64
		     " is damaged; the targets are put back",
		     restore->name, restore->log->path, name, piece->disk, piece->offset);
		return false;
	}
	return true;
}

static void read_end(struct restore_read *read, bool give_back)
{
	struct restore *restore = read->restore;

	if (give_back)
		pool_put(restore->pool, restore->client, read->buffer);
	memset(read, 0, sizeof(*read));
	restore->reading--;
}

/* Hand what was read to the writer; false: it has to wait. */
static bool write_out(struct restore_read *read)
{
	struct restore *restore = read->restore;
	const struct undo_piece *first = read->pieces;
	struct target *target = target_of(restore, first->disk);
	struct wire_frame frame = { .type = WIRE_DATA, .offset = first->offset };
	uint64_t length = 0;
	char *buffer = read->buffer;

	for (size_t i = 0; i < read->count; i++)
		length += first[i].length;
	frame.length = length;
	if (writer_full(&restore->writer) || writer_overlaps(&restore->writer, target, frame.offset, length))
		return false;
	if (read->skip + first->skip)
		memmove(buffer, buffer + read->skip + first->skip, length);
	read_end(read, false);
	if (writer_start(&restore->writer, target, &frame, buffer)) {
		pool_put(restore->pool, restore->client, buffer);
		FAIL(restore, "busy", false, "free memory on the master target", "machine %s: out of memory", restore->name);
	}
	return true;
}

static void read_done(struct io_request *io, int result)
{
	struct restore_read *read = io->user;
	struct restore *restore = read->restore;

	if (result && !restore->failed) {
		FAIL(restore, "io", false, "check the retention volume (dmesg); it is tried again by itself",
		     "machine %s: undo log %s: cannot read: %s", restore->name, restore->log->path, strerror(-result));
	}
	if (restore->failed || restore->stopped || !check_records(restore, read))
		read_end(read, true);
	else
		read->ready = true;
	pump(restore);
}

static struct restore_read *free_read(struct restore *restore)
{
	for (unsigned i = 0; i < RESTORE_READS; i++)
		if (!restore->reads[i].used)
			return &restore->reads[i];
	return NULL;
}

/* Begin with the next piece. Returns whether it came further. */
static bool next(struct restore *restore)
{
	size_t count;
	const struct undo_piece *all = pieces(restore, &count), *piece = &all[restore->next];
	const struct target *target = target_of(restore, piece->disk);
	struct restore_read *read;
	uint64_t bytes, from;
	size_t taken;

	if (!target) {
		/* A disk that is no longer the machine's. */
		restore->next++;
		restore->done_bytes += piece->length;
		return true;
	}
	if (piece->flags & UNDO_ZERO) {
		struct wire_frame frame = { .type = WIRE_ZERO, .offset = piece->offset, .length = piece->length };

		if (writer_full(&restore->writer) ||
		    writer_overlaps(&restore->writer, target, piece->offset, piece->length))
			return false;
		restore->next++;
		if (writer_start(&restore->writer, target_of(restore, piece->disk), &frame, NULL))
			FAIL(restore, "busy", false, "free memory on the master target", "machine %s: out of memory",
			     restore->name);
		return true;
	}
	read = free_read(restore);
	if (!read)
		return false;
	taken = together(piece, count - restore->next);
	from = piece->place / UNDO_BLOCK * UNDO_BLOCK;
	bytes = piece[taken - 1].place + piece[taken - 1].record_length - from;
	bytes = (bytes + UNDO_BLOCK - 1) / UNDO_BLOCK * UNDO_BLOCK;
	read->buffer = pool_get(restore->client, pool_class_for(bytes));
	if (!read->buffer)
		return false;
	read->used = true;
	read->restore = restore;
	read->pieces = piece;
	read->count = taken;
	read->skip = (uint32_t)(piece->place - from);
	read->io = (struct io_request){ .op = IO_READ, .fd = restore->layers[piece->layer].fd,
					.buffer = pool_index(restore->pool, read->buffer), .data = read->buffer,
					.bytes = bytes, .offset = from, .done = read_done, .user = read };
	restore->reading++;
	restore->next += taken;
	io_submit(restore->io, &read->io);
	return true;
}

static void copy(struct restore *restore)
{
	size_t count;
	bool moved;

	pieces(restore, &count);
	do {
		moved = false;
		for (unsigned i = 0; i < RESTORE_READS && restore->step == RESTORE_COPY; i++)
			if (restore->reads[i].ready)
				moved |= write_out(&restore->reads[i]);
		while (restore->step == RESTORE_COPY && restore->next < count && next(restore))
			moved = true;
	} while (moved && restore->step == RESTORE_COPY);
	if (restore->step != RESTORE_COPY || restore->next < count || restore->reading ||
	    writer_in_flight(&restore->writer))
		return;
	restore->step = RESTORE_FLUSH;
	if (writer_flush(&restore->writer, restore->targets, restore->target_count))
		FAIL(restore, "busy", false, "free memory on the master target", "machine %s: out of memory", restore->name);
}

/* Give back what was read and is not wanted any more. */
static void drop_ready(struct restore *restore)
{
	for (unsigned i = 0; restore->reads && i < RESTORE_READS; i++)
		if (restore->reads[i].ready)
			read_end(&restore->reads[i], true);
}

static bool in_flight(const struct restore *restore)
{
	return restore->reading || writer_in_flight(&restore->writer) || writer_flushing(&restore->writer) ||
	       (restore->undo && !undo_quiet(restore->undo));
}

static void pump(struct restore *restore)
{
	restore->again = true;
	if (restore->pumping)
		return;
	restore->pumping = true;
	while (restore->again) {
		restore->again = false;
		if (restore->step == RESTORE_COPY)
			copy(restore);
		if (restore->step == RESTORE_FLUSH && !writer_flushing(&restore->writer)) {
			restore->step = restore->undo ? RESTORE_SEAL : RESTORE_END;
			if (restore->undo)
				undo_seal(restore->undo);
		}
		if (restore->step == RESTORE_END && (restore->failed || restore->stopped))
			drop_ready(restore);
	}
	restore->pumping = false;
	if (restore->step != RESTORE_END || in_flight(restore))
		return;
	restore->step = RESTORE_IDLE;
	pool_leave(restore->client);
	if (restore->stopped && !restore->failed)
		fault_set(&restore->fault, 0, "busy", false, "it goes on when the master target starts again",
			  "machine %s: stopped", restore->name);
	restore->done(restore->user, restore->failed || restore->stopped ? &restore->fault : NULL);
}

static void progress(void *user)
{
	struct restore *restore = user;

	restore->done_bytes = restore->writer.bytes_done;
	pump(restore);
}

static void wake(void *user)
{
	pump(user);
}

static void undo_sealed(void *user, int error)
{
	struct restore *restore = user;

	restore->step = RESTORE_END;
	if (error && !restore->failed)
		undo_broke(restore, NULL, "seal", 0, 0, error);
	pump(restore);
}

static enum undo_full undo_full(void *user)
{
	(void)user;
	return UNDO_FULL_FAIL;
}

void restore_begin(struct restore *restore)
{
	restore->writer = (struct writer){ .io = restore->io, .pool = restore->pool, .client = restore->client,
					   .undo = restore->undo, .progress = progress, .failed = write_failed,
					   .user = restore };
	restore->client->wake = wake;
	restore->client->user = restore;
	pool_join(restore->pool, restore->client);
	if (restore->undo) {
		restore->undo->failed = undo_broke;
		restore->undo->full = undo_full;
		restore->undo->sealed = undo_sealed;
		restore->undo->user = restore;
	}
	restore->began_ms = util_now_ms();
	restore->step = RESTORE_COPY;
	pump(restore);
}

bool restore_stop(struct restore *restore)
{
	if (restore->step == RESTORE_IDLE || restore->step == RESTORE_SEAL)
		return false;
	restore->stopped = true;
	restore->step = RESTORE_END;
	pump(restore);
	return true;
}

void restore_tick(struct restore *restore)
{
	if (restore->step == RESTORE_END)
		pump(restore);
}

bool restore_quiet(const struct restore *restore)
{
	return restore->step == RESTORE_IDLE;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_layer: see undo_layer.h. Reading one layer: head and foot, the index or what is made in its place from
 * the batches, a layer that is still being written, and content. Whatever is read is checked before it is used.
 */
#include "undo_layer.h"
#include "io.h"
#include "log.h"
#include "undo_file.h"
#include "undo_layer_internal.h"
#include "util.h"
#include "wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define SEARCH_BYTES (256u * 1024u) /* read at a time behind a torn tail */

static uint64_t down(uint64_t bytes) { return bytes / UNDO_BLOCK * UNDO_BLOCK; }
static uint64_t up(uint64_t bytes) { return down(bytes + UNDO_BLOCK - 1); }

/* ---- head and foot ------------------------------------------------------------- */

/* The system calls differ in what they say about O_DIRECT where there is none. */
static int open_file(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 && errno == EINVAL)
		fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int file_bytes(int fd, uint64_t *bytes)
{
	struct stat status;

	if (fstat(fd, &status))
		return -errno;
	if (!S_ISREG(status.st_mode))
		return -ENODATA;
	*bytes = (uint64_t)status.st_size;
	return 0;
}

static int read_head(struct undo_layer *layer, void *buffer, const char **why)
{
	const char *meta;
	json_error_t json_error;
	int error;

	*why = "cannot read its head";
	error = undo_pread(layer->fd, buffer, UNDO_BLOCK, 0);
	if (!error)
		error = undo_head_decode(buffer, UNDO_BLOCK, &layer->head, &meta);
	if (error == -EAGAIN) {
		error = undo_pread(layer->fd, buffer, layer->head.batches_at, 0);
		if (!error)
			error = undo_head_decode(buffer, layer->head.batches_at, &layer->head, &meta);
	}
	if (error) {
		*why = error == -ENODATA ? "it is no layer of an undo log" : error == -EBADMSG ? "its head is damaged" :
		       error == -EPROTONOSUPPORT ? "it was written by another version of this program" : *why;
		return error;
	}
	layer->meta = layer->head.meta_bytes ? json_loadb(meta, layer->head.meta_bytes, JSON_REJECT_DUPLICATES, &json_error) :
					       json_object();
	if (!layer->meta && layer->head.meta_bytes && json_error_code(&json_error) == json_error_out_of_memory)
		return -ENOMEM;
	if (!json_is_object(layer->meta)) {
		*why = "the description in its head is not a JSON object";
		return -EBADMSG;
	}
	return 0;
}

int undo_layer_read_foot(struct undo_layer *layer, void *buffer)
{
	struct undo_foot foot;
	uint64_t bytes = 0;
	int error = file_bytes(layer->fd, &bytes);

	if (error)
		return error;
	layer->bytes = bytes;
	layer->sealed = false;
	if (bytes % UNDO_BLOCK || bytes < layer->head.batches_at + UNDO_BLOCK)
		return 0;
	error = undo_pread(layer->fd, buffer, UNDO_BLOCK, bytes - UNDO_BLOCK);
	if (error)
		return error;
	/* A foot that is torn belongs to a layer that was just being sealed: nothing was said about it yet. */
	if (undo_foot_decode(buffer, bytes, &foot))
		return 0;
	if (memcmp(foot.log, layer->head.log, sizeof(foot.log)) || foot.base != layer->head.base ||
	    foot.last != layer->head.last || foot.index_at < layer->head.batches_at)
		return 0;
	layer->foot = foot;
	layer->sealed = true;
	return 0;
}

int undo_layer_open_with(struct undo_layer *layer, int dir, const char *name, const uint8_t *log, void *buffer,
			 const char **why)
{
	uint64_t base, last;
	int error;

	*layer = (struct undo_layer){ .fd = open_file(dir, name) };
	*why = "cannot open it";
	if (layer->fd < 0) {
		error = layer->fd;
		/* A symbolic link, which nobody here makes. */
		return error == -ELOOP ? -ENODATA : error;
	}
	*why = "it is no layer of an undo log";
	error = file_bytes(layer->fd, &layer->bytes);
	if (!error)
		error = read_head(layer, buffer, why);
	if (!error && log && memcmp(layer->head.log, log, UNDO_UUID_BYTES)) {
		*why = "it belongs to another log";
		error = -ESTALE;
	}
	if (!error && undo_layer_parse(name, &base, &last) && (base != layer->head.base || last != layer->head.last)) {
		*why = "its head names other states than its name";
		error = -EBADMSG;
	}
	if (!error) {
		*why = "cannot read its foot";
		error = undo_layer_read_foot(layer, buffer);
	}
	if (error)
		undo_layer_close(layer);
	return error;
}

int undo_layer_open(struct undo_layer *layer, int dir, const char *name, const uint8_t *log, char *error_text,
		    size_t error_bytes)
{
	CLEANUP_FREE void *buffer = io_buffer_alloc(UNDO_RECORD_MAX);
	const char *why = "";
	int error;

	*layer = (struct undo_layer){ .fd = -1 };
	if (!buffer) {
		snprintf(error_text, error_bytes, "undo log, layer %s: out of memory", name);
		return -ENOMEM;
	}
	error = undo_layer_open_with(layer, dir, name, log, buffer, &why);
	if (error == -EBADMSG || error == -ENODATA || error == -ESTALE || error == -EPROTONOSUPPORT)
		snprintf(error_text, error_bytes, "undo log, layer %s: %s", name, why);
	else if (error)
		snprintf(error_text, error_bytes, "undo log, layer %s: %s: %s", name, why, strerror(-error));
	return error == -ESTALE ? -ENODATA : error;
}

void undo_layer_close(struct undo_layer *layer)
{
	if (layer->fd >= 0)
		close(layer->fd);
	json_decref(layer->meta);
	layer->fd = -1;
	layer->meta = NULL;
}

/* ---- batches ------------------------------------------------------------------- */

/* Room is made in powers of two, so that what there is follows from the count. */
static int append(struct undo_record **records, size_t *count, const struct undo_batch *batch)
{
	size_t room = UNDO_BATCH_RECORDS;

	while (room < *count)
		room *= 2;
	if (!*records || *count + batch->count > room) {
		struct undo_record *more;

		while (room < *count + batch->count)
			room *= 2;
		more = realloc(*records, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		*records = more;
	}
	memcpy(*records + *count, batch->records, batch->count * sizeof(**records));
	*count += batch->count;
	return 0;
}

/*
 * Whether a batch behind @from says that number @seq was durable when it was written. Then whatever is missing there
 * is damage; else it was never acted upon.
 */
static int was_durable(const struct undo_layer *layer, uint64_t from, uint64_t end, uint64_t seq, bool *durable)
{
	uint64_t room = from >= end ? UNDO_BLOCK : end - from < SEARCH_BYTES ? end - from : SEARCH_BYTES;
	CLEANUP_FREE uint8_t *buffer = io_buffer_alloc(room);
	CLEANUP_FREE struct undo_batch *batch = malloc(sizeof(*batch));

	*durable = false;
	if (!buffer || !batch)
		return -ENOMEM;
	for (uint64_t at = from; at < end;) {
		uint64_t bytes = end - at < room ? end - at : room;
		int error = undo_pread(layer->fd, buffer, bytes, at);

		if (error)
			return error;
		for (uint64_t i = 0; i < bytes; i += UNDO_BLOCK)
			if (!undo_batch_decode(buffer + i, layer->head.log, layer->head.last, at + i, batch) &&
			    batch->durable > seq) {
				*durable = true;
				return 0;
			}
		at += bytes;
	}
	return 0;
}

/* -EBADMSG where content is not what the records say. */
static int check_content(const struct undo_layer *layer, uint64_t at, const struct undo_batch *batch)
{
	CLEANUP_FREE uint8_t *content = NULL;
	int error;

	if (batch->bytes == UNDO_BLOCK)
		return 0;
	content = io_buffer_alloc(batch->bytes - UNDO_BLOCK);
	if (!content)
		return -ENOMEM;
	error = undo_pread(layer->fd, content, batch->bytes - UNDO_BLOCK, at + UNDO_BLOCK);
	if (error)
		return error;
	for (uint32_t i = 0; i < batch->count; i++) {
		const struct undo_record *record = &batch->records[i];

		if (!(record->flags & UNDO_ZERO) &&
		    wire_crc(content + (record->place - at - UNDO_BLOCK), record->length) != record->crc)
			return -EBADMSG;
	}
	return 0;
}

/* The batch at @scan, whole. -EBADMSG: it is not there, or not all of it. */
static int read_batch(const struct undo_layer *layer, const struct undo_scan *scan, uint64_t end, bool content,
		      uint8_t *buffer, struct undo_batch *batch)
{
	int error;

	if (scan->at > end || end - scan->at < UNDO_BLOCK)
		return -EBADMSG;
	error = undo_pread(layer->fd, buffer, UNDO_BLOCK, scan->at);
	if (error)
		return error;
	if (undo_batch_decode(buffer, layer->head.log, layer->head.last, scan->at, batch) || batch->seq != scan->seq ||
	    batch->bytes > end - scan->at)
		return -EBADMSG;
	return content ? check_content(layer, scan->at, batch) : 0;
}

int undo_layer_scan(const struct undo_layer *layer, struct undo_scan *scan, uint64_t batches_max, bool content,
		    struct undo_record **records, size_t *count)
{
	CLEANUP_FREE uint8_t *buffer = io_buffer_alloc(UNDO_BLOCK);
	CLEANUP_FREE struct undo_batch *batch = malloc(sizeof(*batch));
	bool durable = batches_max != UINT64_MAX;
	uint64_t end = 0;
	int error = 0;

	if (!buffer || !batch)
		return -ENOMEM;
	if (layer->sealed) {
		end = layer->foot.index_at;
	} else {
		error = file_bytes(layer->fd, &end); /* it grows */
		if (error)
			return error;
		end = down(end);
	}
	if (layer->sealed && batches_max >= layer->foot.batches) {
		batches_max = layer->foot.batches;
		durable = true;
	}
	if (!scan->at)
		scan->at = layer->head.batches_at;
	while (scan->seq < batches_max) {
		error = read_batch(layer, scan, end, content, buffer, batch);
		if (error)
			break;
		error = append(records, count, batch);
		if (error)
			return error;
		scan->at += batch->bytes;
		scan->seq++;
	}
	if (error != -EBADMSG || durable)
		return error;
	error = was_durable(layer, scan->at, end, scan->seq, &durable);
	return error ? error : durable ? -EBADMSG : 0;
}

/* ---- index --------------------------------------------------------------------- */

static bool in_order(const struct undo_record *records, size_t count)
{
	for (size_t i = 1; i < count; i++)
		if (records[i - 1].disk == records[i].disk &&
		    records[i - 1].offset + records[i - 1].length > records[i].offset)
			return false;
	return true;
}

static int from_index(const struct undo_layer *layer, struct undo_record **records)
{
	size_t bytes = layer->foot.index_count * UNDO_RECORD_BYTES;
	CLEANUP_FREE struct undo_record *index = io_buffer_alloc(up(bytes ? bytes : 1));
	int error;

	_Static_assert(sizeof(struct undo_record) == UNDO_RECORD_BYTES, "decoded in place");
	if (!index)
		return -ENOMEM;
	error = undo_pread(layer->fd, index, up(bytes), layer->foot.index_at);
	if (!error && wire_crc(index, bytes) != layer->foot.index_crc)
		error = -EBADMSG;
	if (!error)
		error = undo_records_decode(index, layer->foot.index_count, layer->foot.index_at, index);
	if (error)
		return error;
	*records = index;
	index = NULL;
	return 0;
}

static int from_batches(const struct undo_layer *layer, struct undo_record **records)
{
	CLEANUP_FREE struct undo_record *found = NULL;
	struct undo_scan scan = { 0 };
	size_t count = 0;
	int error = undo_layer_scan(layer, &scan, layer->foot.batches, false, &found, &count);

	if (error)
		return error;
	if (count != layer->foot.index_count || scan.at != layer->foot.index_at)
		return -EBADMSG;
	if (count)
		qsort(found, count, sizeof(*found), undo_record_order);
	if (!in_order(found, count))
		return -EBADMSG;
	*records = found;
	found = NULL;
	return 0;
}

int undo_layer_records(const struct undo_layer *layer, struct undo_record **records, size_t *count)
{
	char name[UNDO_NAME_BYTES];
	int error;

	*records = NULL;
	*count = 0;
	if (!layer->sealed)
		return -EINVAL;
	error = from_index(layer, records);
	if (error && error != -ENOMEM) {
		undo_layer_name(name, layer->head.base, layer->head.last);
		log_warning("undo log, layer %s: its index cannot be read: %s; it is made again from the batches (check the "
			    "retention volume)", name, strerror(-error));
		error = from_batches(layer, records);
	}
	if (!error)
		*count = layer->foot.index_count;
	return error;
}

/* ---- content ------------------------------------------------------------------- */

int undo_layer_content(const struct undo_layer *layer, const struct undo_piece *piece, void *scratch, void *out)
{
	uint64_t from = down(piece->place), end = up(piece->place + piece->record_length);
	bool direct = piece->length == piece->record_length && from == piece->place &&
		      end == piece->place + piece->record_length && (uintptr_t)out % UNDO_BLOCK == 0;
	const uint8_t *content = direct ? out : (uint8_t *)scratch + (piece->place - from);
	int error;

	if (piece->length > piece->record_length || piece->skip > piece->record_length - piece->length)
		return -EINVAL;
	if (piece->flags & UNDO_ZERO) {
		memset(out, 0, piece->length);
		return 0;
	}
	if (piece->record_length > UNDO_RECORD_MAX)
		return -EINVAL;
	error = undo_pread(layer->fd, direct ? out : scratch, end - from, from);
	if (error)
		return error == -ENODATA ? -EBADMSG : error;
	if (wire_crc(content, piece->record_length) != piece->crc)
		return -EBADMSG;
	if (!direct)
		memcpy(out, content + piece->skip, piece->length);
	return 0;
}

static int span_order(const void *a, const void *b)
{
	const struct undo_span *one = a, *other = b;

	if (one->last != other->last)
		return one->last < other->last ? -1 : 1;
	return (one->base > other->base) - (one->base < other->base);
}

static int span_add(struct undo_span **spans, size_t *count, const struct undo_span *span)
{
	struct undo_span *more;

	/* Room for 1, 2, 4, 8, ... */
	if (!(*count & (*count - 1))) {
		more = reallocarray(*spans, *count ? 2 * *count : 1, sizeof(*more));
		if (!more)
			return -ENOMEM;
		*spans = more;
	}
	(*spans)[(*count)++] = *span;
	return 0;
}

int undo_span_list(int dir, uint64_t after, struct undo_span **spans, size_t *count, int (*other)(void *user, const char *name),
		   void *user)
{
	CLEANUP_DIR DIR *list = NULL;
	CLEANUP_FREE struct undo_span *found = NULL;
	const struct dirent *file;
	struct undo_span span;
	size_t found_count = 0;
	int error = 0, fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* reading moves the position of a shared one */

	*spans = NULL;
	*count = 0;
	if (fd < 0)
		return -errno;
	list = fdopendir(fd);
	if (!list) {
		close(fd);
		return -ENOMEM;
	}
	errno = 0;
	while (!error && (file = readdir(list))) {
		if (undo_layer_parse(file->d_name, &span.base, &span.last))
			error = span.last > after ? span_add(&found, &found_count, &span) : 0;
		else if (other)
			error = other(user, file->d_name);
		if (!error)
			errno = 0;
	}
	if (!error)
		error = -errno;
	if (error)
		return error;
	if (found_count)
		qsort(found, found_count, sizeof(*found), span_order);
	*count = found_count;
	*spans = found;
	found = NULL;
	return 0;
}

size_t undo_span_find(const struct undo_span *spans, size_t count, uint64_t last)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (spans[middle].last < last)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

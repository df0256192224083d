/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_view: see undo_view.h. Takes in the layers behind a state, from the oldest to the one that is being written, and follows
 * the tail from there.
 *
 *	the tail says				what is done
 *	--------------------------------------------------------------------------------------
 *	nothing new				nothing
 *	more batches in the open layer		they are read and added
 *	the open layer is committed		the rest of it is added
 *	others were committed since		a way from what is known to the committed state is looked for among the
 *						names in the directory. Layers may have been merged: one that begins earlier has
 *						what is known already, which does no harm, as the oldest counts
 *	the open layer was given up		its records stay: the disk has been put back to just that. But what was read
 *						from the disk since is read again, for its last batches may never have been seen
 *
 * Files stay open, so that what was taken in can be read when its file is merged or removed. From time to time all is taken in
 * anew, which gives the space of such files back.
 */
#include "undo_view.h"
#include "io.h"
#include "undo_file.h"
#include "undo_layer_internal.h"
#include "undo_tail.h"
#include "undo_use.h"
#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#define RETRIES 100u	   /* while files move, and layers are given up */
#define RELOAD_LAYERS 256u /* so many more than there were, and half as many more: take in anew */
#define NONE SIZE_MAX

/** struct taken_layer - @scan: of one that was not sealed when it was taken in first */
struct taken_layer {
	struct undo_layer layer;
	struct undo_scan scan;
};

/**
 * struct taken - what was taken in
 * @layers: numbered as in the map
 * @end: up to this state everything is; @open: the layer that begins there and is being written, or NONE
 * @loaded: layers when it was made
 */
struct taken {
	struct taken_layer *layers;
	size_t count, open, loaded;
	struct undo_map map;
	uint64_t end;
};

/** struct undo_view - @tail: as far as @taken goes; @use: locked file, see undo_use.h; @block, @scratch: buffers */
struct undo_view {
	char *path;
	int dir, use;
	uint64_t base;
	json_t *meta;
	struct undo_tail_page *page;
	struct undo_tail tail;
	struct taken taken;
	void *block, *scratch;
};

/* ---- layers -------------------------------------------------------------------- */

static void taken_clear(struct taken *taken)
{
	for (size_t i = 0; i < taken->count; i++)
		undo_layer_close(&taken->layers[i].layer);
	free(taken->layers);
	undo_map_clear(&taken->map);
	*taken = (struct taken){ .open = NONE };
}

/* Each layer is an open file. */
static bool raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= limit.rlim_max)
		return false;
	limit.rlim_cur = limit.rlim_max;
	return !setrlimit(RLIMIT_NOFILE, &limit);
}

static int open_layer(struct undo_view *view, uint64_t base, uint64_t last, struct undo_layer *layer)
{
	char name[UNDO_NAME_BYTES];
	const char *why;
	int error;

	undo_layer_name(name, base, last);
	error = undo_layer_open_with(layer, view->dir, name, view->tail.log, view->scratch, &why);
	if (error == -EMFILE && raise_limit())
		error = undo_layer_open_with(layer, view->dir, name, view->tail.log, view->scratch, &why);
	if (error)
		return error;
	if (!view->meta && base == view->base)
		view->meta = json_incref(layer->meta);
	json_decref(layer->meta);
	layer->meta = NULL;
	return 0;
}

/* Room for one more at taken->layers[taken->count]. */
static int make_room(struct taken *taken)
{
	struct taken_layer *more;

	if (taken->count >= UNDO_MAP_LAYERS_MAX)
		return -EOVERFLOW;
	if (taken->count & (taken->count - 1))
		return 0;
	more = realloc(taken->layers, (taken->count ? 2 * taken->count : 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	taken->layers = more;
	return 0;
}

static bool overlap(const struct undo_record *records, size_t count)
{
	for (size_t i = 1; i < count; i++)
		if (records[i - 1].disk == records[i].disk &&
		    records[i - 1].offset + records[i - 1].length > records[i].offset)
			return true;
	return false;
}

/* The batches of layer number @at that are below @batches, all durable. All of them are added, or none. */
static int take_batches(struct taken *taken, size_t at, uint64_t batches)
{
	struct taken_layer *it = &taken->layers[at];
	CLEANUP_FREE struct undo_record *records = NULL;
	struct undo_scan scan = it->scan;
	size_t count = 0;
	int error;

	if (batches <= scan.seq)
		return 0;
	error = undo_layer_scan(&it->layer, &scan, batches, false, &records, &count);
	if (error)
		return error;
	if (count)
		qsort(records, count, sizeof(*records), undo_record_order);
	if (overlap(records, count))
		return -EBADMSG;
	error = undo_map_add(&taken->map, records, count, (uint16_t)at);
	if (!error)
		it->scan = scan;
	return error;
}

/* What was not yet taken of layer number @at, which is sealed. */
static int take_all(struct taken *taken, size_t at)
{
	const struct taken_layer *it = &taken->layers[at];
	CLEANUP_FREE struct undo_record *records = NULL;
	size_t count;
	int error;

	if (it->scan.seq)
		return take_batches(taken, at, it->layer.foot.batches);
	error = undo_layer_records(&it->layer, &records, &count);
	return error ? error : undo_map_add(&taken->map, records, count, (uint16_t)at);
}

/* ---- the way to the committed state -------------------------------------------- */

/** struct step - a layer of it; @layer.fd -1: it is taken->layers[taken->open] */
struct step {
	uint64_t base, last;
	struct undo_layer layer;
};

struct way {
	struct undo_span *spans; /* what there is behind the beginning */
	struct step *steps;	 /* what was chosen, newest first */
	size_t span_count, step_count;
};

static void way_clear(struct way *way)
{
	for (size_t i = 0; i < way->step_count; i++)
		undo_layer_close(&way->steps[i].layer);
	free(way->spans);
	free(way->steps);
	*way = (struct way){ 0 };
}

static int add_step(struct way *way, const struct step *step)
{
	struct step *more;

	if (!(way->step_count & (way->step_count - 1))) {
		more = reallocarray(way->steps, way->step_count ? 2 * way->step_count : 1, sizeof(*more));
		if (!more)
			return -ENOMEM;
		way->steps = more;
	}
	way->steps[way->step_count++] = *step;
	return 0;
}

static bool is_open_one(const struct taken *taken, const struct step *step)
{
	const struct undo_head *head = taken->open == NONE ? NULL : &taken->layers[taken->open].layer.head;

	return head && head->base == step->base && head->last == step->last;
}

/* The widest whole layer that ends at @last. -ENOENT: there is none, or it was there a moment ago */
static int find_step(struct undo_view *view, const struct taken *taken, struct way *way, uint64_t last)
{
	size_t at = undo_span_find(way->spans, way->span_count, last);
	int error, first_error = -ENOENT;

	for (; at < way->span_count && way->spans[at].last == last; at++) {
		struct step step = { .base = way->spans[at].base, .last = last, .layer.fd = -1 };

		if (is_open_one(taken, &step))
			return add_step(way, &step);
		error = open_layer(view, step.base, step.last, &step.layer);
		if (!error && !step.layer.sealed)
			error = -EBADMSG;
		if (!error)
			error = add_step(way, &step);
		if (!error)
			return 0;
		undo_layer_close(&step.layer);
		if (error != -ENOENT && error != -ESTALE && error != -ENODATA && error != -EBADMSG && error != -EIO)
			return error;
		if (error == -EBADMSG || error == -EIO)
			first_error = error;
	}
	return first_error;
}

/* From the committed state @to back to @from, or to before it. */
static int find_way(struct undo_view *view, const struct taken *taken, uint64_t from, uint64_t to, struct way *way)
{
	int error = undo_span_list(view->dir, from, &way->spans, &way->span_count, NULL, NULL);

	while (!error && to > from) {
		error = find_step(view, taken, way, to);
		if (!error)
			to = way->steps[way->step_count - 1].base;
	}
	return error;
}

static int take_step(struct undo_view *view, struct taken *taken, struct step *step)
{
	int error;

	if (step->layer.fd < 0) {
		struct undo_layer *layer = &taken->layers[taken->open].layer;

		error = undo_layer_read_foot(layer, view->block);
		if (!error && !layer->sealed)
			error = -EBADMSG;
		return error ? error : take_all(taken, taken->open);
	}
	error = make_room(taken);
	if (error)
		return error;
	taken->layers[taken->count] = (struct taken_layer){ .layer = step->layer };
	error = take_all(taken, taken->count);
	if (error)
		return error;
	taken->count++;
	step->layer.fd = -1;
	return 0;
}

/* Everything up to the committed state. */
static int take_committed(struct undo_view *view, struct taken *taken, uint64_t committed)
{
	struct way way = { 0 };
	struct step known = { .layer.fd = -1 };
	int error;

	if (committed == taken->end)
		return 0;
	if (committed < taken->end)
		return -EBADMSG;
	if (taken->open != NONE && taken->layers[taken->open].layer.head.last == committed) {
		error = take_step(view, taken, &known);
		if (error)
			return error;
	} else {
		error = find_way(view, taken, taken->end, committed, &way);
		for (size_t i = way.step_count; !error && i--;) {
			error = take_step(view, taken, &way.steps[i]);
			if (!error)
				taken->end = way.steps[i].last;
		}
		way_clear(&way);
		if (error)
			return error;
	}
	taken->end = committed;
	taken->open = NONE;
	return 0;
}

static int take_open(struct undo_view *view, struct taken *taken, const struct undo_tail *tail)
{
	struct undo_layer layer;
	int error;

	if (taken->open != NONE && taken->layers[taken->open].layer.head.last != tail->open)
		taken->open = NONE; /* given up */
	if (!tail->open)
		return 0;
	if (taken->open == NONE) {
		error = make_room(taken);
		if (!error)
			error = open_layer(view, taken->end, tail->open, &layer);
		if (error)
			return error;
		taken->layers[taken->count] = (struct taken_layer){ .layer = layer };
		taken->open = taken->count++;
	}
	return take_batches(taken, taken->open, tail->batches);
}

static int take(struct undo_view *view, struct taken *taken, const struct undo_tail *tail)
{
	int error = take_committed(view, taken, tail->committed);

	return error ? error : take_open(view, taken, tail);
}

/* ---- following ----------------------------------------------------------------- */

/* All anew; layers that were merged or given up since are then no longer open. */
static void reload(struct undo_view *view)
{
	struct taken fresh = { .end = view->base, .open = NONE };

	view->taken.loaded = view->taken.count;
	if (!take(view, &fresh, &view->tail) && fresh.count < view->taken.count) {
		struct taken old = view->taken;

		view->taken = fresh;
		view->taken.loaded = fresh.count;
		fresh = old;
	}
	taken_clear(&fresh);
}

/* As far as the tail says now. -ENOENT is for files that moved between two looks. */
static int follow(struct undo_view *view)
{
	struct undo_tail tail;
	int error = -ENOENT;

	for (unsigned i = 0; error == -ENOENT && i < RETRIES; i++) {
		error = undo_tail_read(view->page, &tail);
		if (error)
			return error;
		if (memcmp(tail.log, view->tail.log, sizeof(tail.log)))
			return -ESTALE;
		if (tail.generation == view->tail.generation)
			return 0;
		error = take(view, &view->taken, &tail);
	}
	if (error)
		return error == -ENOENT ? -EBADMSG : error;
	view->tail = tail;
	return 0;
}

int undo_view_refresh(struct undo_view *view)
{
	int error = follow(view);
	size_t more = view->taken.count - view->taken.loaded;

	if (!error && more >= RELOAD_LAYERS && more >= view->taken.loaded / 2)
		reload(view);
	return error;
}

/* ---- reading ------------------------------------------------------------------- */

static int read_range(struct undo_view *view, uint32_t disk, int target, uint64_t offset, uint64_t bytes, uint8_t *out,
		      unsigned tries);

static int read_piece(struct undo_view *view, const struct undo_piece *piece, uint8_t *out)
{
	return undo_layer_content(&view->taken.layers[piece->layer].layer, piece, view->scratch, out);
}

/*
 * A range that no layer has, as far as is known. If the tail has moved since, what a layer has by now is taken from there. The rest was
 * not overwritten before the tail was looked at, which was after the disk was read; unless
 * a layer was given up in between, whose records may be gone.
 */
static int read_disk(struct undo_view *view, uint32_t disk, int target, uint64_t offset, uint64_t bytes, uint8_t *out,
		     unsigned tries)
{
	uint64_t undone = view->tail.undone;
	int error = undo_pread(target, out, bytes, offset);

	if (error || !undo_tail_moved(view->page, &view->tail))
		return error;
	error = undo_view_refresh(view);
	if (error)
		return error;
	if (view->tail.undone != undone)
		return tries ? read_range(view, disk, target, offset, bytes, out, tries - 1) : -EIO;
	for (uint64_t at = 0, length; at < bytes; at += length) {
		struct undo_piece piece;

		length = bytes - at;
		if (undo_map_find(&view->taken.map, disk, offset + at, &length, &piece))
			error = read_piece(view, &piece, out + at);
		if (error)
			return error;
	}
	return 0;
}

static int read_range(struct undo_view *view, uint32_t disk, int target, uint64_t offset, uint64_t bytes, uint8_t *out,
		      unsigned tries)
{
	for (uint64_t at = 0, length; at < bytes; at += length) {
		struct undo_piece piece;
		int error;

		length = bytes - at;
		if (undo_map_find(&view->taken.map, disk, offset + at, &length, &piece))
			error = read_piece(view, &piece, out + at);
		else
			error = read_disk(view, disk, target, offset + at, length, out + at, tries);
		if (error)
			return error;
	}
	return 0;
}

int undo_view_read(struct undo_view *view, uint32_t disk, int target, uint64_t offset, size_t bytes, void *out)
{
	if (offset % 512 || bytes % 512 || offset > (uint64_t)INT64_MAX - bytes)
		return -EINVAL;
	return read_range(view, disk, target, offset, bytes, out, RETRIES);
}

/* ---- checking ------------------------------------------------------------------ */

static int order_by_place(const void *a, const void *b)
{
	const struct undo_piece *one = a, *other = b;

	if (one->layer != other->layer)
		return one->layer < other->layer ? -1 : 1;
	return (one->place > other->place) - (one->place < other->place);
}

/* The records that count and have content, in the order in which they lie in the files, each once. */
static struct undo_piece *records_by_place(const struct undo_view *view, size_t *count, uint64_t *bytes)
{
	const struct undo_map *map = &view->taken.map;
	size_t pieces = map->count ? map->runs[0].count : 0, kept = 0;
	struct undo_piece *list = malloc((pieces ? pieces : 1) * sizeof(*list));

	*bytes = 0;
	for (size_t i = 0; list && i < pieces; i++)
		if (!(map->runs[0].pieces[i].flags & UNDO_ZERO))
			list[kept++] = map->runs[0].pieces[i];
	if (!list || !kept) {
		*count = 0;
		return list;
	}
	qsort(list, kept, sizeof(*list), order_by_place);
	*count = 0;
	for (size_t i = 0; i < kept; i++) {
		if (*count && !order_by_place(&list[*count - 1], &list[i]))
			continue;
		list[(*count)++] = list[i];
		*bytes += list[i].record_length;
	}
	return list;
}

int undo_view_check(struct undo_view *view, void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
		    char *error_text, size_t error_bytes)
{
	CLEANUP_FREE struct undo_piece *records = NULL;
	CLEANUP_FREE void *content = io_buffer_alloc(UNDO_RECORD_MAX);
	uint64_t done = 0, total = 0;
	size_t count = 0;
	int error = undo_view_refresh(view);

	if (!error)
		error = undo_map_join(&view->taken.map);
	if (!error)
		records = records_by_place(view, &count, &total);
	if (!error && (!records || !content))
		error = -ENOMEM;
	if (error) {
		snprintf(error_text, error_bytes, "undo log %s: cannot take in the layers behind state %" PRIu64 ": %s",
			 view->path, view->base, strerror(-error));
		return error;
	}
	for (size_t i = 0; i < count; i++) {
		struct undo_piece whole = records[i];
		const struct undo_head *head = &view->taken.layers[whole.layer].layer.head;
		char name[UNDO_NAME_BYTES];

		whole.offset -= whole.skip;
		whole.skip = 0;
		whole.length = whole.record_length;
		error = read_piece(view, &whole, content);
		if (error) {
			undo_layer_name(name, head->base, head->last);
			snprintf(error_text, error_bytes, "undo log %s, layer %s: %s of disk %" PRIu32 " at %" PRIu64
				 ": %s (states up to %" PRIu64 " cannot be had whole; choose a newer one and check the "
				 "retention volume)", view->path, name, error == -EBADMSG ? "damaged content" : "cannot read the content",
				 whole.disk, whole.offset, strerror(-error), head->base);
			return error;
		}
		done += whole.record_length;
		if (progress)
			progress(user, done, total);
	}
	return 0;
}

/* ---- open and close ------------------------------------------------------------ */

static int explain(const struct undo_view *view, int error, char *text, size_t bytes)
{
	static const uint8_t none[UNDO_UUID_BYTES];

	if (error == -ENOENT)
		snprintf(text, bytes, "undo log %s: state %" PRIu64 " is not there, or no longer (see: reprotect points list)",
			 view->path, view->base);
	else if (error == -EMFILE)
		snprintf(text, bytes, "undo log %s: state %" PRIu64 ": too many layers to have them all open (raise the limit of "
			 "open files, LimitNOFILE or ulimit -n, or choose a newer point)", view->path, view->base);
	else if (error == -EBADMSG)
		snprintf(text, bytes, "undo log %s: a layer behind state %" PRIu64 " is damaged or missing (choose a newer point; "
			 "check the retention volume)", view->path, view->base);
	else if (error == -ESTALE && !memcmp(view->tail.log, none, sizeof(none)))
		snprintf(text, bytes, "undo log %s: it is not in use (is the machine still protected?)", view->path);
	else if (error == -EAGAIN)
		snprintf(text, bytes, "undo log %s: the master target does not say what the disks hold: it has ended, or has not yet "
			 "undone an incomplete epoch (start it, or wait)", view->path);
	else
		snprintf(text, bytes, "undo log %s: state %" PRIu64 ": cannot open: %s", view->path, view->base, strerror(-error));
	return error;
}

static int load(struct undo_view *view)
{
	static const uint8_t none[UNDO_UUID_BYTES];
	int error = -ENOENT;

	/* Nothing is removed now, but layers are added. */
	for (unsigned i = 0; error == -ENOENT && i < RETRIES; i++) {
		struct undo_tail tail;

		taken_clear(&view->taken);
		view->taken.end = view->base;
		error = undo_tail_read(view->page, &tail);
		if (error)
			return error;
		if (i && tail.generation == view->tail.generation)
			return -ENOENT;
		view->tail = tail;
		if (!memcmp(tail.log, none, sizeof(none)))
			return -ESTALE;
		if (tail.committed < view->base)
			return -ENOENT;
		error = take(view, &view->taken, &tail);
	}
	if (error)
		return error;
	/* A wider layer is there instead: its state was given up. */
	for (size_t i = 0; i < view->taken.count; i++)
		if (view->taken.layers[i].layer.head.base < view->base)
			return -ENOENT;
	view->taken.loaded = view->taken.count;
	return 0;
}

int undo_view_open(struct undo_view **view, const char *path, uint64_t base, char *error_text, size_t error_bytes)
{
	struct undo_view *it = calloc(1, sizeof(*it));
	int error, guard = -1;

	*view = NULL;
	if (!it || !(it->path = strdup(path))) {
		free(it);
		snprintf(error_text, error_bytes, "undo log %s: out of memory", path);
		return -ENOMEM;
	}
	it->base = base;
	it->use = -1;
	it->taken.open = NONE;
	it->block = io_buffer_alloc(UNDO_BLOCK);
	it->scratch = io_buffer_alloc(UNDO_SCRATCH_BYTES);
	it->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (it->dir < 0) {
		error = -errno;
		snprintf(error_text, error_bytes, "undo log %s: cannot open the directory: %s", path, strerror(-error));
		undo_view_close(it);
		return error;
	}
	error = it->block && it->scratch ? undo_tail_map(&it->page, it->dir, false) : -ENOMEM;
	if (error) {
		snprintf(error_text, error_bytes, "undo log %s: cannot read its tail: %s (the master target makes it: is it running, "
			 "and is this the directory of a machine?)", path, strerror(-error));
		undo_view_close(it);
		return error;
	}
	it->use = undo_use_take(it->dir, base, &guard);
	if (it->use < 0) {
		error = it->use;
		snprintf(error_text, error_bytes, "undo log %s: cannot lock state %" PRIu64 " in %s/use: %s", path, base, path,
			 strerror(-error));
		undo_view_close(it);
		return error;
	}
	error = load(it);
	close(guard);
	if (error) {
		explain(it, error, error_text, error_bytes);
		undo_view_close(it);
		return error;
	}
	*view = it;
	return 0;
}

void undo_view_close(struct undo_view *view)
{
	if (!view)
		return;
	taken_clear(&view->taken);
	undo_tail_unmap(view->page);
	json_decref(view->meta);
	if (view->use >= 0)
		close(view->use);
	if (view->dir >= 0)
		close(view->dir);
	free(view->block);
	free(view->scratch);
	free(view->path);
	free(view);
}

const json_t *undo_view_meta(const struct undo_view *view)
{
	return view->meta;
}

size_t undo_view_pieces(const struct undo_view *view)
{
	size_t pieces = 0;

	for (size_t r = 0; r < view->taken.map.count; r++)
		pieces += view->taken.map.runs[r].count;
	return pieces;
}

size_t undo_view_memory(const struct undo_view *view)
{
	return undo_map_bytes(&view->taken.map) + view->taken.count * sizeof(struct taken_layer);
}

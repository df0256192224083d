// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * slicer: see slicer.h. No I/O, no state of its own.
 */
#include "slicer.h"

#include <errno.h>
#include <stdlib.h>

#include "wire.h"

#define ZERO_BLOCK_BYTES 4096u
#define ZERO_RUN_BYTES (16u * 1024u)

void slice_free(struct slice *slice)
{
	free(slice->extents);
	slice->extents = NULL;
	slice->count = slice->room = 0;
	slice->bytes = 0;
}

static int slice_add(struct slice *slice, uint32_t disk, uint64_t offset, uint64_t length)
{
	if (slice->count == slice->room) {
		size_t room = slice->room ? slice->room * 2 : 64;
		struct slice_extent *more = realloc(slice->extents, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		slice->extents = more;
		slice->room = room;
	}
	slice->extents[slice->count++] = (struct slice_extent){ disk, offset, length };
	slice->bytes += length;
	return 0;
}

void slicer_share(const uint64_t *dirty_bytes, size_t count, uint64_t budget_bytes,
		  uint64_t *share_bytes)
{
	size_t wanting = 0;
	bool changed = true;

	for (size_t i = 0; i < count; i++) {
		share_bytes[i] = 0;
		wanting += dirty_bytes[i] > 0;
	}
	while (wanting && changed) {
		uint64_t equal = budget_bytes / wanting;

		changed = false;
		for (size_t i = 0; i < count; i++) {
			if (share_bytes[i] || !dirty_bytes[i] || dirty_bytes[i] > equal)
				continue;
			share_bytes[i] = dirty_bytes[i];
			budget_bytes -= dirty_bytes[i];
			wanting--;
			changed = true;
		}
	}
	if (!wanting)
		return;
	for (size_t i = 0; i < count; i++)
		if (dirty_bytes[i] && !share_bytes[i])
			share_bytes[i] = budget_bytes / wanting;
}

/* The first unreadable granule that touches [start, end), or UINT64_MAX. */
static uint64_t bad_in(const struct slice_bad *bad, uint64_t start, uint64_t end)
{
	for (size_t i = 0; bad && i < bad->count; i++)
		if (bad->offsets_bytes[i] < end && bad->offsets_bytes[i] + bad->granule_bytes > start)
			return bad->offsets_bytes[i];
	return UINT64_MAX;
}

int slicer_take(struct slice *slice, uint32_t disk, uint64_t size_bytes, uint32_t granule_bytes,
		uint64_t from_bytes, uint64_t budget_bytes, const struct slice_bad *bad,
		slicer_next_fn next, void *user, struct slice_cover *cover)
{
	uint64_t offset, length;
	int rc;

	*cover = (struct slice_cover){ .from_bytes = from_bytes,
				       .to_bytes = from_bytes,
				       .next_bytes = from_bytes };
	if (!budget_bytes)
		return 0;
	budget_bytes = budget_bytes / granule_bytes * granule_bytes;
	if (!budget_bytes)
		budget_bytes = granule_bytes;
	while ((rc = next(&offset, &length, user)) > 0) {
		const uint64_t extent_end = offset + length;
		uint64_t end = extent_end, stop;

		while ((stop = bad_in(bad, offset, end)) <= offset) {
			/* It begins with an unreadable granule: behind it, if nothing is taken yet. */
			cover->skipped = true;
			if (cover->bytes) {
				cover->to_bytes = stop;
				cover->next_bytes = stop + granule_bytes;
				goto stopped;
			}
			offset = stop + granule_bytes;
			cover->from_bytes = cover->to_bytes = cover->next_bytes = offset;
			if (offset >= end)
				break;
		}
		if (offset >= end)
			continue;
		if (stop < end)
			end = stop;
		if (end - offset > budget_bytes - cover->bytes)
			end = offset + (budget_bytes - cover->bytes);
		rc = slice_add(slice, disk, offset, end - offset);
		if (rc)
			return rc;
		cover->bytes += end - offset;
		cover->to_bytes = cover->next_bytes = end;
		if (end == stop) {
			cover->skipped = true;
			cover->next_bytes = stop + granule_bytes;
			goto stopped;
		}
		if (cover->bytes < budget_bytes && slice->count < SLICE_EXTENTS_MAX)
			continue;
		/* Full. Whether that was all of it decides if the pass is complete. */
		if (end < extent_end)
			goto stopped;
		rc = next(&offset, &length, user);
		if (rc > 0)
			goto stopped;
		break;
	}
	if (rc < 0)
		return rc;
	cover->to_bytes = size_bytes;
stopped:
	if (cover->to_bytes >= size_bytes)
		cover->at_end = true;
	if (cover->next_bytes >= size_bytes || cover->at_end)
		cover->next_bytes = 0;
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct slice_extent *x = a, *y = b;

	if (x->disk != y->disk)
		return x->disk < y->disk ? -1 : 1;
	return x->offset_bytes < y->offset_bytes ? -1 : x->offset_bytes > y->offset_bytes;
}

/* How much of @e, from its start on, is alike: all in @before (*hot), or all not. */
static uint64_t alike(const struct slice_extent *e, const struct slice *before, size_t *at, bool *hot)
{
	const struct slice_extent *b;

	for (; *at < before->count; (*at)++) {
		b = &before->extents[*at];
		if (b->disk > e->disk ||
		    (b->disk == e->disk && b->offset_bytes + b->length_bytes > e->offset_bytes))
			break;
	}
	b = *at < before->count ? &before->extents[*at] : NULL;
	*hot = b && b->disk == e->disk && b->offset_bytes <= e->offset_bytes;
	if (*hot) {
		uint64_t left = b->offset_bytes + b->length_bytes - e->offset_bytes;

		return left < e->length_bytes ? left : e->length_bytes;
	}
	if (b && b->disk == e->disk && b->offset_bytes - e->offset_bytes < e->length_bytes)
		return b->offset_bytes - e->offset_bytes;
	return e->length_bytes;
}

uint64_t slicer_hot_first(struct slice *slice, struct slice *before)
{
	struct slice hot = { 0 }, cold = { 0 };
	size_t at = 0;
	int rc = 0;

	if (!slice->count || !before->count)
		return 0;
	qsort(slice->extents, slice->count, sizeof(*slice->extents), by_place);
	qsort(before->extents, before->count, sizeof(*before->extents), by_place);
	for (size_t i = 0; i < slice->count && !rc; i++) {
		struct slice_extent e = slice->extents[i];

		while (e.length_bytes && !rc) {
			bool is_hot;
			uint64_t length = alike(&e, before, &at, &is_hot);

			rc = slice_add(is_hot ? &hot : &cold, e.disk, e.offset_bytes, length);
			e.offset_bytes += length;
			e.length_bytes -= length;
		}
	}
	for (size_t i = 0; i < cold.count && !rc; i++)
		rc = slice_add(&hot, cold.extents[i].disk, cold.extents[i].offset_bytes,
			       cold.extents[i].length_bytes);
	if (rc) {
		slice_free(&hot);
		slice_free(&cold);
		return 0;
	}
	free(slice->extents);
	*slice = hot;
	hot.bytes -= cold.bytes;
	slice_free(&cold);
	return hot.bytes;
}

size_t zero_next(const void *data, size_t bytes, bool *zero)
{
	const uint8_t *start = data;
	size_t at = 0, run = 0;

	/* Find the first run of zeros that is worth a frame. */
	while (at < bytes) {
		size_t block = bytes - at < ZERO_BLOCK_BYTES ? bytes - at : ZERO_BLOCK_BYTES;

		if (wire_is_zero(start + at, block)) {
			run += block;
		} else {
			if (run >= ZERO_RUN_BYTES)
				break;
			run = 0;
		}
		at += block;
	}
	if (run == at && (run >= ZERO_RUN_BYTES || run == bytes)) {
		*zero = true;
		return run;
	}
	*zero = false;
	return run >= ZERO_RUN_BYTES ? at - run : at;
}

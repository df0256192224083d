/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slicer: which part of a cut goes into one epoch. Pure; called by epoch.c, tested alone.
 *
 * An epoch carries at most a budget of bytes. Of every disk it covers one contiguous
 * range [from, to): what is dirty there is in the slice, the rest goes back into the
 * dirty map at commit. The range starts where that disk's last one ended, so that busy low
 * offsets do not starve the high ones.
 */
#ifndef REPROTECT_AGENT_SLICER_H
#define REPROTECT_AGENT_SLICER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLICE_EXTENTS_MAX 131072u

struct slice_extent {
	uint32_t disk; /* index chosen by the caller */
	uint64_t offset_bytes;
	uint64_t length_bytes;
};

struct slice {
	struct slice_extent *extents;
	size_t count, room;
	uint64_t bytes;
};

/* Granules that cannot be read for now, ascending. */
struct slice_bad {
	const uint64_t *offsets_bytes;
	size_t count;
	uint32_t granule_bytes;
};

/**
 * struct slice_cover - what a slice holds of one disk
 * @from_bytes, @to_bytes: all that was dirty in there is in the slice
 * @next_bytes: where the next slice of this disk should start (0: from the beginning)
 * @at_end: the range reaches the end of the disk
 * @skipped: unreadable granules lie before or right behind the range
 * @bytes: of this disk in the slice
 */
struct slice_cover {
	uint64_t from_bytes, to_bytes, next_bytes;
	bool at_end, skipped;
	uint64_t bytes;
};

/** slice_free - forget the extents */
void slice_free(struct slice *slice);

/**
 * slicer_share - divide @budget_bytes among disks with @dirty_bytes each
 *
 * A disk that needs less than its equal share gets what it needs, the others divide the
 * rest equally. The sum of @share_bytes never exceeds the budget.
 */
void slicer_share(const uint64_t *dirty_bytes, size_t count, uint64_t budget_bytes,
		  uint64_t *share_bytes);

/** slicer_next_fn - the next dirty extent, ascending: 1, 0 at the end, or negative errno */
typedef int (*slicer_next_fn)(uint64_t *offset_bytes, uint64_t *length_bytes, void *user);

/**
 * slicer_take - add what is dirty on one disk, from @from_bytes up to @budget_bytes
 * @next: enumerates extents from @from_bytes on
 * @bad: granules to leave out, may be NULL
 *
 * Cuts an extent at a granule where the budget ends, but takes one granule at least
 * when the budget is not 0. Return: 0, -ENOMEM, or what @next returned.
 */
int slicer_take(struct slice *slice, uint32_t disk, uint64_t size_bytes, uint32_t granule_bytes,
		uint64_t from_bytes, uint64_t budget_bytes, const struct slice_bad *bad,
		slicer_next_fn next, void *user, struct slice_cover *cover);

/**
 * slicer_hot_first - order @slice: what @before holds as well comes first, else by disk and offset
 *
 * What was written in two epochs in a row is likely to be written again soon: read early, it need not be
 * preserved. Extents are split where @before begins and ends, so their number may grow. @before is sorted here;
 * it is bounded like any slice (SLICE_EXTENTS_MAX and what it was split into). Return: bytes that come first; 0
 * also when memory is out, then the order is as before.
 */
uint64_t slicer_hot_first(struct slice *slice, struct slice *before);

/**
 * zero_next - length of the run at the start of @data that is alike: data or zeros
 * @zero: set when the run is zeros
 *
 * Zeros count in blocks of 4 KiB and as a run from 16 KiB up, or when all of @bytes is
 * zero. @bytes is a multiple of 512, above 0.
 */
size_t zero_next(const void *data, size_t bytes, bool *zero);

#endif

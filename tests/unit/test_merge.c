/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Merging layers of an undo log, against a model that keeps the oldest content of each sector: random layers, every
 * call of the file system failing in its turn, and damaged sources. Whatever happens the sources are as
 * they were, and there is a whole new layer or none.
 */
/* LINK: userspace/master-target/merge.c userspace/master-target/merge_read.c userspace/master-target/merge_write.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "io.h"
#include "tests/unit/undo_build.h"
#include "undo_file.h"
#include "undo_layer.h"
#include "userspace/master-target/merge.h"
#include "util.h"

#define SECTOR 512u
#define DISKS 2u
#define SECTORS 1024u /* of each disk */

static const uint8_t log_uuid[UNDO_UUID_BYTES] = "merge log uuid!";

/* ---- the file system, failing on command ---------------------------------------- */

/* Call number @fail_at fails with @error; every third transfer is short when @shorten, every fifth interrupted. */
static struct {
	unsigned long calls, fail_at, moves, syncs, allocated_most;
	int error;
	bool shorten;
} faults;

static bool fails(void)
{
	return ++faults.calls == faults.fail_at;
}

static size_t some(size_t bytes)
{
	return faults.shorten && ++faults.moves % 3 == 0 && bytes >= 2 * UNDO_BLOCK ? bytes / 2 / UNDO_BLOCK * UNDO_BLOCK : bytes;
}

static bool interrupted(void)
{
	return faults.shorten && ++faults.moves % 5 == 0;
}

static ssize_t fault_pread(int fd, void *data, size_t bytes, off_t offset)
{
	if (interrupted())
		return -EINTR;
	return fails() ? faults.error : undo_file_real.pread(fd, data, some(bytes), offset);
}

static ssize_t fault_pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
	if (interrupted())
		return -EINTR;
	if (!fails())
		return undo_file_real.pwrite(fd, data, some(bytes), offset);
	/* Torn: some of it is there. */
	if (bytes > UNDO_BLOCK)
		assert_int_equal(undo_file_real.pwrite(fd, data, bytes / 2 / UNDO_BLOCK * UNDO_BLOCK, offset),
				 bytes / 2 / UNDO_BLOCK * UNDO_BLOCK);
	return faults.error;
}

static int fault_fdatasync(int fd)
{
	(void)fd; /* no power is cut here */
	faults.syncs++;
	return fails() ? faults.error : 0;
}

static int fault_ftruncate(int fd, off_t bytes)
{
	return fails() && faults.error ? faults.error : undo_file_real.ftruncate(fd, bytes);
}

static int fault_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	if (faults.allocated_most && (unsigned long)(offset + bytes) > faults.allocated_most)
		return -ENOSPC;
	if (fails() && faults.error)
		return faults.error;
	/* Space that is allocated and given back a thousand times is slow; only the size is seen by anybody here. */
	assert_int_equal(mode, 0);
	return lseek(fd, 0, SEEK_END) >= offset + bytes ? 0 : undo_file_real.ftruncate(fd, offset + bytes);
}

static int never_rename(int dir, const char *from, const char *to)
{
	(void)dir;
	fail_msg("%s renamed to %s", from, to);
	return -EIO;
}

static int only_temporary(int dir, const char *name)
{
	assert_non_null(strstr(name, ".undo.tmp"));
	return undo_file_real.unlink(dir, name);
}

static int fault_fsync_dir(int dir)
{
	return fails() ? faults.error : undo_file_real.fsync_dir(dir);
}

static const struct undo_file_ops faulty = {
	.pread = fault_pread,
	.pwrite = fault_pwrite,
	.fdatasync = fault_fdatasync,
	.ftruncate = fault_ftruncate,
	.fallocate = fault_fallocate,
	.rename = never_rename,
	.unlink = only_temporary,
	.fsync_dir = fault_fsync_dir,
};

static void arm(void)
{
	memset(&faults, 0, sizeof(faults));
	undo_file = &faulty;
}

/* ---- the model ---------------------------------------------------------------- */

struct model {
	uint8_t have[DISKS][SECTORS];
	uint8_t content[DISKS][SECTORS][SECTOR];
};

struct rig {
	char path[64];
	int dir;
	struct model model;
	char error[512];
};

static uint64_t seed;

static uint64_t random_below(uint64_t limit)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 33) % limit;
}

static int setup_in(void **state, const char *where)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	*state = rig;
	if (!rig)
		return -1;
	snprintf(rig->path, sizeof(rig->path), "%s/test_merge.XXXXXX", where);
	if (!mkdtemp(rig->path))
		return -1;
	rig->dir = open(rig->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	seed = 1;
	arm();
	return rig->dir < 0 ? -1 : 0;
}

/* In memory, where that can be had: this writes and damages a thousand files. */
static int setup(void **state)
{
	return setup_in(state, access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
}

static int setup_on_disk(void **state)
{
	return setup_in(state, "/tmp");
}

/* Remove all files. */
static void empty(const struct rig *rig)
{
	DIR *dir = opendir(rig->path);
	const struct dirent *entry;

	assert_non_null(dir);
	while ((entry = readdir(dir)))
		unlinkat(rig->dir, entry->d_name, 0);
	closedir(dir);
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	empty(rig);
	close(rig->dir);
	rmdir(rig->path);
	free(rig);
	return 0;
}

static void model_add(struct model *model, const struct build_record *record)
{
	for (uint32_t i = 0; i < record->length / SECTOR; i++) {
		uint64_t sector = record->offset / SECTOR + i;

		if (model->have[record->disk][sector])
			continue;
		model->have[record->disk][sector] = 1;
		if (record->content)
			memcpy(model->content[record->disk][sector], record->content + (size_t)i * SECTOR, SECTOR);
		else
			memset(model->content[record->disk][sector], 0, SECTOR);
	}
}

/* A layer that the model does not have yet: so the next newer one. */
static void random_layer(struct rig *rig, uint64_t base, uint64_t last, unsigned density)
{
	struct build_record *records = calloc(DISKS * SECTORS, sizeof(*records));
	uint64_t *words = malloc(DISKS * SECTORS * SECTOR);
	const uint8_t *content = (const uint8_t *)words;
	char meta[64];
	size_t count = 0;

	assert_true(records && words);
	for (size_t i = 0; i < DISKS * SECTORS * SECTOR / sizeof(*words); i++)
		words[i] = seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	for (uint32_t disk = 0; disk < DISKS; disk++)
		for (uint32_t at = (uint32_t)random_below(64); at < SECTORS;) {
			uint32_t sectors = 1 + (uint32_t)(random_below(4) ? random_below(16) : random_below(128));
			bool zero = !random_below(5);

			if (zero)
				sectors *= 3; /* these may be long */
			if (sectors > SECTORS - at)
				sectors = SECTORS - at;
			records[count++] = (struct build_record){
				.disk = disk, .offset = (uint64_t)at * SECTOR, .length = sectors * SECTOR,
				.content = zero ? NULL : content + ((size_t)disk * SECTORS + at) * SECTOR
			};
			if (!zero && sectors > UNDO_RECORD_MAX / SECTOR)
				records[count - 1].length = UNDO_RECORD_MAX;
			at += records[count - 1].length / SECTOR;
			if (random_below(3))
				at += (uint32_t)random_below(density);
		}
	for (size_t i = 0; i < count; i++)
		model_add(&rig->model, &records[i]);
	/* As they come: in no order. */
	for (size_t i = count; i > 1; i--) {
		size_t other = random_below(i);
		struct build_record swap = records[i - 1];

		records[i - 1] = records[other];
		records[other] = swap;
	}
	snprintf(meta, sizeof(meta), "{ \"epoch\": %u }", (unsigned)base);
	build_layer(rig->dir, log_uuid, base, last, meta, records, count, (uint32_t)random_below(20), true);
	free(records);
	free(words);
}

/* Some layers from state 10 on; the state that they lead to. */
static uint64_t random_chain(struct rig *rig, unsigned layers, unsigned density)
{
	uint64_t at = 10;

	empty(rig);
	memset(&rig->model, 0, sizeof(rig->model));
	for (unsigned i = 0; i < layers; i++) {
		uint64_t next = at + 1 + random_below(3);

		random_layer(rig, at, next, density);
		at = next;
	}
	return at;
}

/* ---- looking at what came of it ------------------------------------------------- */

static bool there(const struct rig *rig, const char *name)
{
	return !faccessat(rig->dir, name, F_OK, 0);
}

static void temporary_name(char out[64], uint64_t base, uint64_t last)
{
	char name[UNDO_NAME_BYTES];

	undo_layer_name(name, base, last);
	snprintf(out, 64, "%s.tmp", name);
}

static void check_record(const struct undo_layer *layer, const struct undo_record *record, uint8_t *scratch,
			 struct model *found)
{
	struct undo_piece piece = { .disk = record->disk, .offset = record->offset, .length = record->length,
				    .record_length = record->length, .place = record->place, .crc = record->crc,
				    .flags = (uint16_t)record->flags };
	CLEANUP_FREE uint8_t *content = malloc(record->length);
	struct build_record made = { .disk = record->disk, .offset = record->offset, .length = record->length,
				     .content = content };

	assert_non_null(content);
	assert_int_equal(record->place % UNDO_BLOCK, 0);
	assert_int_equal(undo_layer_content(layer, &piece, scratch, content), 0);
	model_add(found, &made);
}

/* The new layer is what the model says: all of it, and nothing else. */
static void check_merged(struct rig *rig, uint64_t base, uint64_t last, const struct undo_entry *entry)
{
	CLEANUP_FREE struct undo_record *records = NULL, *scanned = NULL;
	CLEANUP_FREE uint8_t *scratch = io_buffer_alloc(UNDO_SCRATCH_BYTES);
	struct model *found = calloc(1, sizeof(*found));
	struct undo_scan scan = { 0 };
	size_t count, scanned_count = 0;
	struct undo_layer layer;
	uint64_t range = 0, content = 0;
	char name[64], foot[2][UNDO_BLOCK];

	assert_true(found && scratch);
	temporary_name(name, base, last);
	assert_int_equal(undo_layer_open(&layer, rig->dir, name, log_uuid, rig->error, sizeof(rig->error)), 0);
	assert_true(layer.sealed && layer.head.base == base && layer.head.last == last);
	assert_int_equal(json_integer_value(json_object_get(layer.meta, "epoch")), base);
	assert_true(entry->sealed && entry->base == base && entry->last == last && entry->bytes == layer.bytes);
	assert_true(json_equal(entry->meta, layer.meta));
	undo_foot_encode(&entry->foot, foot[0]);
	undo_foot_encode(&layer.foot, foot[1]);
	assert_memory_equal(foot[0], foot[1], UNDO_BLOCK);
	assert_int_equal(undo_layer_records(&layer, &records, &count), 0);
	for (size_t i = 0; i < count; i++) {
		check_record(&layer, &records[i], scratch, found);
		range += records[i].length;
		content += records[i].flags & UNDO_ZERO ? 0 : records[i].length;
	}
	assert_true(range == layer.foot.range_bytes && content == layer.foot.content_bytes);
	assert_memory_equal(found->have, rig->model.have, sizeof(found->have));
	for (unsigned disk = 0; disk < DISKS; disk++)
		for (unsigned sector = 0; sector < SECTORS; sector++)
			if (found->have[disk][sector])
				assert_memory_equal(found->content[disk][sector], rig->model.content[disk][sector], SECTOR);
	/* The same from the batches, whole and in order: the index can be made again. */
	assert_int_equal(undo_layer_scan(&layer, &scan, UINT64_MAX, true, &scanned, &scanned_count), 0);
	assert_true(scanned_count == count && scan.at == layer.foot.index_at && scan.seq == layer.foot.batches);
	if (count)
		assert_memory_equal(scanned, records, count * sizeof(*records));
	undo_layer_close(&layer);
	free(found);
}

static int merge(struct rig *rig, uint64_t base, uint64_t last, struct undo_entry *entry)
{
	rig->error[0] = 0;
	memset(entry, 0, sizeof(*entry));
	return merge_layers(rig->dir, log_uuid, base, last, entry, rig->error, sizeof(rig->error));
}

static void expect_merged(struct rig *rig, uint64_t base, uint64_t last)
{
	struct undo_entry entry;
	int r = merge(rig, base, last, &entry);

	if (r)
		fail_msg("%d: %s", r, rig->error);
	check_merged(rig, base, last, &entry);
	json_decref(entry.meta);
}

/* Sizes and checksums of all files but the new one. */
static uint64_t fingerprint(const struct rig *rig)
{
	DIR *dir = opendir(rig->path);
	const struct dirent *entry;
	uint64_t sum = 0;

	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		CLEANUP_FD int fd = openat(rig->dir, entry->d_name, O_RDONLY);
		CLEANUP_FREE char *data = NULL;
		struct stat st;

		if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || strstr(entry->d_name, ".tmp"))
			continue;
		data = malloc((size_t)st.st_size + 1);
		assert_int_equal(pread(fd, data, (size_t)st.st_size, 0), st.st_size);
		sum += ((uint64_t)wire_crc(data, (size_t)st.st_size) << 20) + wire_crc(entry->d_name, strlen(entry->d_name));
	}
	closedir(dir);
	return sum;
}

static void expect_nothing(const struct rig *rig, uint64_t base, uint64_t last, uint64_t before)
{
	char name[64];

	temporary_name(name, base, last);
	assert_false(there(rig, name));
	assert_true(fingerprint(rig) == before);
	assert_non_null(strstr(rig->error, ": cannot be made: "));
}

/* ---- the tests ------------------------------------------------------------------ */

static void test_random_layers(void **state)
{
	struct rig *rig = *state;

	for (unsigned round = 0; round < 15; round++) {
		uint64_t last, before;

		seed = round + 1;
		last = random_chain(rig, 2 + (unsigned)random_below(9), 1 + (unsigned)random_below(400));
		before = fingerprint(rig);
		expect_merged(rig, 10, last);
		assert_true(fingerprint(rig) == before);
	}
}

/* The states that the second layer of a chain is between. */
static void second_link(const struct rig *rig, uint64_t *base, uint64_t *last)
{
	char name[UNDO_NAME_BYTES];

	for (*base = 11;; ++*base) {
		undo_layer_name(name, 10, *base);
		if (there(rig, name))
			break;
	}
	for (*last = *base + 1;; ++*last) {
		undo_layer_name(name, *base, *last);
		if (there(rig, name))
			break;
	}
}

/* What a merge has made is merged again, with what it did not have. */
static void test_merged_layers_merge(void **state)
{
	struct rig *rig = *state;
	uint64_t last = random_chain(rig, 5, 50), more;
	uint64_t first_last, second_last;
	char name[UNDO_NAME_BYTES], temporary[64];

	expect_merged(rig, 10, last);
	last = random_chain(rig, 5, 50);
	second_link(rig, &first_last, &second_last);
	expect_merged(rig, 10, last);
	undo_layer_name(name, 10, last);
	temporary_name(temporary, 10, last);
	assert_int_equal(renameat(rig->dir, temporary, rig->dir, name), 0);
	more = last + 2;
	random_layer(rig, last, more, 20);
	/* Some of the parts are still there: the longest counts. */
	undo_layer_name(name, first_last, second_last);
	assert_int_equal(unlinkat(rig->dir, name, 0), 0);
	expect_merged(rig, 10, more);
}

static void write_layer(struct rig *rig, uint64_t base, uint64_t last, const struct build_record *records, size_t count)
{
	char meta[64];

	snprintf(meta, sizeof(meta), "{\"epoch\":%u}", (unsigned)base);
	build_layer(rig->dir, log_uuid, base, last, meta, records, count, 0, true);
}

static size_t merged_records(struct rig *rig, uint64_t base, uint64_t last, struct undo_record **records)
{
	struct undo_entry entry;
	struct undo_layer layer;
	char name[64];
	size_t count;

	if (merge(rig, base, last, &entry))
		fail_msg("%s", rig->error);
	json_decref(entry.meta);
	temporary_name(name, base, last);
	assert_int_equal(undo_layer_open(&layer, rig->dir, name, log_uuid, rig->error, sizeof(rig->error)), 0);
	assert_int_equal(undo_layer_records(&layer, records, &count), 0);
	undo_layer_close(&layer);
	return count;
}

static void test_what_touches_becomes_one_record(void **state)
{
	static const uint8_t content[65536] = "content";
	const struct build_record first[] = { { .offset = 0, .length = 4096, .content = content },
					      { .offset = 8192, .length = 512, .content = content },
					      { .offset = 65536, .length = 65536, .content = content },
					      { .offset = 1 << 20, .length = UNDO_ZERO_MAX },
					      { .disk = 1, .offset = 0, .length = 4096, .content = content } };
	const struct build_record second[] = { { .offset = 4096, .length = 4096, .content = content },
					       { .offset = 8704, .length = 3584, .content = content },
					       { .offset = 131072, .length = 512, .content = content },
					       { .offset = (1 << 20) + (uint64_t)UNDO_ZERO_MAX, .length = 1 << 20 },
					       { .disk = 1, .offset = 4096, .length = 4096 },
					       { .disk = 2, .offset = 8192, .length = 4096 } };
	const uint64_t expected[][2] = { { 0, 12288 }, { 65536, 65536 }, { 131072, 512 }, { 1 << 20, UNDO_ZERO_MAX },
					 { (1 << 20) + (uint64_t)UNDO_ZERO_MAX, 1 << 20 }, { 0, 4096 }, { 4096, 4096 }, { 8192, 4096 } };
	CLEANUP_FREE struct undo_record *records = NULL;
	struct rig *rig = *state;
	size_t count;

	write_layer(rig, 1, 2, first, ARRAY_LENGTH(first));
	write_layer(rig, 2, 3, second, ARRAY_LENGTH(second));
	count = merged_records(rig, 1, 3, &records);
	assert_int_equal(count, ARRAY_LENGTH(expected));
	for (size_t i = 0; i < count; i++) {
		assert_true(records[i].offset == expected[i][0]);
		assert_true(records[i].length == expected[i][1]);
	}
}

/* Blocks from two layers by turns: records and batches are filled, and nothing goes beyond them. */
static void test_batches_are_filled(void **state)
{
	enum { BLOCKS = 800 };
	uint8_t *content = calloc(BLOCKS, UNDO_BLOCK);
	CLEANUP_FREE struct undo_record *records = NULL;
	struct build_record build[2][BLOCKS / 2];
	struct rig *rig = *state;
	uint64_t end = 0;
	size_t count;

	assert_non_null(content);
	for (size_t i = 0; i < BLOCKS; i++)
		build[i % 2][i / 2] = (struct build_record){ .offset = i * UNDO_BLOCK, .length = UNDO_BLOCK,
							     .content = content + i * UNDO_BLOCK };
	write_layer(rig, 1, 2, build[0], BLOCKS / 2);
	write_layer(rig, 2, 3, build[1], BLOCKS / 2);
	count = merged_records(rig, 1, 3, &records);
	for (size_t i = 0; i < count; i++) {
		assert_true(records[i].offset == end);
		end += records[i].length;
	}
	assert_true(end == BLOCKS * UNDO_BLOCK);
	/* 255 blocks fit into a batch: 15 records of 64 KiB and one of 60. */
	assert_int_equal(count, BLOCKS / 255 * 16 + (BLOCKS % 255 + 15) / 16);
	free(content);
}

static void test_layers_without_a_record(void **state)
{
	struct rig *rig = *state;

	write_layer(rig, 10, 11, NULL, 0);
	write_layer(rig, 11, 12, NULL, 0);
	expect_merged(rig, 10, 12);
}

/* More than is looked at together, over many batches; and what was left of an earlier attempt is longer. */
static void test_many_records(void **state)
{
	enum { BLOCKS = 12000, LAYERS = 3 };
	uint8_t *content = malloc(BLOCKS * UNDO_BLOCK);
	struct build_record *records = calloc(BLOCKS, sizeof(*records));
	uint8_t *owner = calloc(BLOCKS, 1);
	CLEANUP_FREE uint8_t *scratch = io_buffer_alloc(UNDO_SCRATCH_BYTES), *out = io_buffer_alloc(UNDO_RECORD_MAX);
	struct rig *rig = *state;
	struct undo_entry entry;
	struct undo_map map = { 0 };
	struct undo_layer layer;
	struct undo_record *merged;
	char name[64];
	size_t count;
	int fd;

	assert_true(content && records && owner && scratch && out);
	for (unsigned l = 0; l < LAYERS; l++) {
		count = 0;
		for (size_t i = 0; i < BLOCKS; i++) {
			if (!random_below(2))
				continue;
			/* Each block says which layer and block it is. */
			memset(content + i * UNDO_BLOCK, (int)(l + 1), UNDO_BLOCK);
			memcpy(content + i * UNDO_BLOCK, &i, sizeof(i));
			records[count++] = (struct build_record){ .offset = i * 2 * UNDO_BLOCK, .length = UNDO_BLOCK,
								  .content = content + i * UNDO_BLOCK };
			if (!owner[i])
				owner[i] = (uint8_t)(l + 1);
		}
		write_layer(rig, l + 1, l + 2, records, count);
	}
	temporary_name(name, 1, LAYERS + 1);
	fd = openat(rig->dir, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && !ftruncate(fd, 1 << 30) && !close(fd));
	undo_file = &undo_file_real;
	assert_int_equal(merge(rig, 1, LAYERS + 1, &entry), 0);
	json_decref(entry.meta);
	assert_int_equal(undo_layer_open(&layer, rig->dir, name, log_uuid, rig->error, sizeof(rig->error)), 0);
	assert_true(layer.bytes == entry.bytes && layer.bytes < BLOCKS * (UNDO_BLOCK + 200ull));
	assert_int_equal(undo_layer_records(&layer, &merged, &count), 0);
	assert_int_equal(undo_map_add(&map, merged, count, 0), 0);
	for (size_t i = 0; i < BLOCKS; i++) {
		uint64_t length = UNDO_BLOCK;
		struct undo_piece piece;

		assert_int_equal(undo_map_find(&map, 0, i * 2 * UNDO_BLOCK, &length, &piece), owner[i] != 0);
		if (!owner[i])
			continue;
		assert_int_equal(length, UNDO_BLOCK);
		assert_int_equal(undo_layer_content(&layer, &piece, scratch, out), 0);
		assert_memory_equal(out, &i, sizeof(i));
		assert_int_equal(out[UNDO_BLOCK - 1], owner[i]);
	}
	undo_map_clear(&map);
	undo_layer_close(&layer);
	free(merged);
	free(content);
	free(records);
	free(owner);
}

static void test_there_has_to_be_a_chain(void **state)
{
	struct rig *rig = *state;
	static const uint8_t other[UNDO_UUID_BYTES] = "another log";
	struct undo_entry entry;
	uint64_t before;

	write_layer(rig, 10, 11, NULL, 0);
	write_layer(rig, 12, 13, NULL, 0);
	write_layer(rig, 13, 14, NULL, 0);
	write_layer(rig, 13, 15, NULL, 0);
	build_layer(rig->dir, log_uuid, 15, 16, "{}", NULL, 0, 0, false);
	build_layer(rig->dir, other, 16, 17, "{}", NULL, 0, 0, true);
	before = fingerprint(rig);
	assert_int_equal(merge(rig, 10, 13, &entry), -ENOENT); /* a gap */
	assert_non_null(strstr(rig->error, "no layer leads on from state 11"));
	expect_nothing(rig, 10, 13, before);
	assert_int_equal(merge(rig, 10, 11, &entry), -ENOENT); /* one layer is no chain */
	assert_int_equal(merge(rig, 13, 14, &entry), -ENOENT);
	expect_nothing(rig, 13, 14, before);
	assert_int_equal(merge(rig, 13, 13, &entry), -EINVAL);
	assert_int_equal(merge(rig, 13, 16, &entry), -EBADMSG); /* one is not sealed */
	expect_nothing(rig, 13, 16, before);
	assert_int_equal(merge(rig, 13, 17, &entry), -EBADMSG);
	expect_nothing(rig, 13, 17, before);
	assert_int_equal(merge_layers(rig->dir, other, 12, 15, NULL, rig->error, sizeof(rig->error)), -ENODATA);
	expect_nothing(rig, 12, 15, before);
	assert_int_equal(merge_layers(rig->dir, log_uuid, 12, 15, NULL, rig->error, sizeof(rig->error)), 0);
	assert_int_equal(merge(rig, 12, 14, &entry), 0); /* one layer leads too far: not taken */
	json_decref(entry.meta);
}

/* ---- faults --------------------------------------------------------------------- */

/* Where a failure is told it is as if nothing had been; an index that cannot be read is made again from the batches. */
static void test_every_call_fails_in_its_turn(void **state)
{
	static const int errors[] = { -EIO, -ENOSPC, 0 }; /* 0: the end of the file, or nothing taken */
	struct rig *rig = *state;
	uint64_t last = random_chain(rig, 4, 100), before = fingerprint(rig);

	for (unsigned e = 0; e < ARRAY_LENGTH(errors); e++) {
		unsigned long failed = 0, turn = 1;

		for (;; turn++) {
			struct undo_entry entry;
			unsigned long calls;
			int r;

			arm();
			faults.fail_at = turn;
			faults.error = errors[e];
			r = merge(rig, 10, last, &entry);
			calls = faults.calls;
			arm();
			if (!r) {
				check_merged(rig, 10, last, &entry);
				json_decref(entry.meta);
			} else {
				failed++;
				assert_true(errors[e] ? r == errors[e] : r == -EIO || r == -EBADMSG || r == -ENODATA);
				expect_nothing(rig, 10, last, before);
			}
			if (calls < turn)
				break;
		}
		/* Heads and feet of four layers, their content; and what is written, unless a call says 0. */
		print_message("%lu of %lu calls: told\n", failed, turn - 1);
		assert_true(failed >= (errors[e] ? 18 : 14));
	}
}

static void test_short_transfers_and_interruptions(void **state)
{
	struct rig *rig = *state;

	for (unsigned round = 0; round < 10; round++) {
		uint64_t last = random_chain(rig, 4, 100);
		struct undo_entry entry;

		arm();
		faults.shorten = true;
		assert_int_equal(merge(rig, 10, last, &entry), 0);
		arm();
		check_merged(rig, 10, last, &entry);
		json_decref(entry.meta);
	}
}

/* There is not enough for the large step, then for the layer itself. */
static void test_space_just_enough_is_enough(void **state)
{
	struct rig *rig = *state;
	uint64_t last = random_chain(rig, 4, 100), before = fingerprint(rig);
	struct undo_entry entry;
	uint64_t bytes;

	assert_int_equal(merge(rig, 10, last, &entry), 0);
	json_decref(entry.meta);
	bytes = entry.bytes;
	arm();
	faults.allocated_most = bytes;
	assert_int_equal(merge(rig, 10, last, &entry), 0);
	assert_int_equal(faults.syncs, 1);
	check_merged(rig, 10, last, &entry);
	json_decref(entry.meta);
	arm();
	faults.allocated_most = bytes - UNDO_BLOCK;
	assert_int_equal(merge(rig, 10, last, &entry), -ENOSPC);
	expect_nothing(rig, 10, last, before);
	assert_non_null(strstr(rig->error, "enlarge the retention volume"));
}

static void flip(const struct rig *rig, const char *name, uint64_t at, uint8_t bit)
{
	CLEANUP_FD int fd = openat(rig->dir, name, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= (uint8_t)(1 << bit);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
}

/* A flipped bit anywhere is told, or of no consequence: it is never copied. */
static void test_damaged_sources(void **state)
{
	struct rig *rig = *state;
	uint64_t last = random_chain(rig, 3, 60);
	unsigned long refused = 0, harmless = 0;
	DIR *dir = opendir(rig->path);
	const struct dirent *file;
	char names[3][sizeof(file->d_name)];
	unsigned count = 0;

	assert_non_null(dir);
	while ((file = readdir(dir)))
		if (strstr(file->d_name, ".undo") && count < 3)
			snprintf(names[count++], sizeof(names[0]), "%s", file->d_name);
	closedir(dir);
	assert_int_equal(count, 3);
	for (unsigned round = 0; round < 200; round++) {
		const char *name = names[round % 3];
		struct undo_entry entry;
		struct stat st;
		uint64_t at, before;
		uint8_t bit = (uint8_t)random_below(8);
		int r;

		assert_int_equal(fstatat(rig->dir, name, &st, 0), 0);
		/* Half of them in what is not content. */
		at = random_below((uint64_t)st.st_size);
		if (round % 2)
			at = round % 4 == 1 ? random_below(8192) : (uint64_t)st.st_size - 1 - random_below(16384);
		flip(rig, name, at, bit);
		before = fingerprint(rig);
		r = merge(rig, 10, last, &entry);
		if (r) {
			refused++;
			assert_true(r == -EBADMSG || r == -ENODATA || r == -EPROTONOSUPPORT);
			expect_nothing(rig, 10, last, before);
		} else {
			harmless++;
			check_merged(rig, 10, last, &entry);
			json_decref(entry.meta);
		}
		flip(rig, name, at, bit);
	}
	assert_true(refused > 20 && harmless > 20);
	expect_merged(rig, 10, last);
}

static void test_a_damaged_record_is_named(void **state)
{
	static const uint8_t content[8192] = "content";
	const struct build_record one[] = { { .disk = 7, .offset = 40960, .length = 8192, .content = content } };
	const struct build_record two[] = { { .disk = 7, .offset = 0, .length = 65536 } };
	struct rig *rig = *state;
	char name[UNDO_NAME_BYTES];
	struct undo_entry entry;
	uint64_t before;

	write_layer(rig, 10, 11, one, 1);
	write_layer(rig, 11, 12, two, 1);
	undo_layer_name(name, 10, 11);
	flip(rig, name, 2 * UNDO_BLOCK + 5000, 3);
	before = fingerprint(rig);
	assert_int_equal(merge(rig, 10, 12, &entry), -EBADMSG);
	assert_non_null(strstr(rig->error, name));
	assert_non_null(strstr(rig->error, "disk 7 at 40960"));
	expect_nothing(rig, 10, 12, before);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_random_layers),
		T(test_merged_layers_merge),
		T(test_what_touches_becomes_one_record),
		T(test_batches_are_filled),
		T(test_layers_without_a_record),
		cmocka_unit_test_setup_teardown(test_many_records, setup_on_disk, teardown),
		T(test_there_has_to_be_a_chain),
		T(test_every_call_fails_in_its_turn),
		T(test_short_transfers_and_interruptions),
		T(test_space_just_enough_is_enough),
		T(test_damaged_sources),
		T(test_a_damaged_record_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

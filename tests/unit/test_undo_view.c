/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The past while the present goes on. A writer that keeps to the protocol of the master target (old content durable, published, only
 * then overwritten) makes epochs, gives epochs up, merges and drops layers; views at several states are read in between, and are
 * compared with a model that keeps every state. Steps of the writer also come in the middle of a view's own
 * reads, from the same thread, so that every order is met and can be met again; and from another thread.
 *
 * Usage: test_undo_view [STEPS [SEED]]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "../random.h"
#include "io.h"
#include "log.h"
#include "tests/unit/undo_build.h"
#include "undo_file.h"
#include "undo_tail.h"
#include "undo_use.h"
#include "undo_view.h"
#include "util.h"

#define DISKS 2u
#define SECTORS 256u
#define SECTOR 512u
#define DISK_BYTES (SECTORS * SECTOR)
#define STATES 24u /* kept at a time */
#define VIEWS 4u

static const uint8_t log_uuid[UNDO_UUID_BYTES] = "a log's own uuid";
static unsigned steps = 6000;
static uint64_t random_state = RANDOM_SEED;

static uint32_t random_below(uint32_t limit)
{
	return (uint32_t)((next_random(&random_state) >> 11) % limit);
}

/* struct state - content of the disks; @changed: sectors that the layer to the next one has */
struct state {
	uint64_t id;
	uint8_t disks[DISKS][DISK_BYTES];
	bool changed[DISKS][SECTORS];
};

static struct rig {
	char path[64], error[512];
	int dir, target[DISKS];
	struct undo_tail_page *page;
	struct undo_tail tail;
	struct state *states; /* oldest first; the last one is what was committed */
	size_t count;
	uint8_t now[DISKS][DISK_BYTES]; /* what the targets hold */
	struct build build;
	uint64_t newest; /* state number ever given out */
	struct undo_view *views[VIEWS];
	struct state *view_states; /* of each view */
	uint8_t *buffer;
	bool quiet; /* no steps in between */
} rig;

/* ---- the writer ---------------------------------------------------------------- */

static struct state *newest_state(void) { return &rig.states[rig.count - 1]; }

static void publish(void)
{
	memcpy(rig.tail.log, log_uuid, sizeof(log_uuid));
	undo_tail_publish(rig.page, &rig.tail);
}

static void describe(uint64_t id, char meta[64])
{
	snprintf(meta, 64, "{\"id\": %llu}", (unsigned long long)id);
}

static void begin_epoch(void)
{
	char meta[64];

	if (rig.tail.open)
		return;
	rig.newest += 1 + random_below(3);
	describe(newest_state()->id, meta);
	build_begin(&rig.build, rig.dir, log_uuid, newest_state()->id, rig.newest, meta);
	rig.tail.open = rig.newest;
	rig.tail.batches = 0;
	publish();
}

static void overwrite(uint32_t disk, uint32_t at, uint32_t sectors, const uint8_t *data)
{
	build_put(rig.target[disk], data, sectors * SECTOR, at * SECTOR);
	memcpy(rig.now[disk] + at * SECTOR, data, sectors * SECTOR);
}

/* A few ranges in one batch; what the layer has already is only overwritten. */
static void write_some(void)
{
	struct build_record records[UNDO_BATCH_RECORDS];
	struct {
		uint32_t disk, at, sectors;
		uint8_t fill;
	} ranges[8];
	uint32_t count = 0, many = 1 + random_below(8);
	uint8_t data[64 * SECTOR];

	if (!rig.tail.open)
		return;
	for (uint32_t r = 0; r < many; r++) {
		uint32_t disk = random_below(DISKS), at = random_below(SECTORS), sectors = 1 + random_below(random_below(3) ? 8 : 64);
		struct state *state = newest_state();

		if (sectors > SECTORS - at)
			sectors = SECTORS - at;
		ranges[r].disk = disk;
		ranges[r].at = at;
		ranges[r].sectors = sectors;
		ranges[r].fill = random_below(4) ? (uint8_t)random_below(256) : 0;
		for (uint32_t i = at, end; i < at + sectors; i = end) {
			const uint8_t *old = rig.now[disk] + i * SECTOR;
			bool zero = true;

			end = i + 1;
			if (state->changed[disk][i])
				continue;
			while (end < at + sectors && !state->changed[disk][end])
				end++;
			if (count == UNDO_BATCH_RECORDS - 10)
				break;
			for (uint32_t b = 0; b < (end - i) * SECTOR; b++)
				zero = zero && !old[b];
			records[count++] = (struct build_record){ .offset = i * SECTOR, .disk = disk, .length = (end - i) * SECTOR,
								  .content = zero ? NULL : old };
			memset(&state->changed[disk][i], 1, end - i);
		}
	}
	if (count) {
		build_batch(&rig.build, records, count);
		rig.tail.batches = rig.build.seq;
		publish();
	}
	for (uint32_t r = 0; r < many; r++) {
		uint32_t bytes = ranges[r].sectors * SECTOR;

		for (uint32_t b = 0; b < bytes; b++)
			data[b] = ranges[r].fill ? (uint8_t)(ranges[r].fill + b / 64 + rig.newest) : 0;
		overwrite(ranges[r].disk, ranges[r].at, ranges[r].sectors, data);
	}
}

static void end_epoch(bool and_begin)
{
	char meta[64];

	if (!rig.tail.open || rig.count == STATES)
		return;
	build_seal(&rig.build);
	build_end(&rig.build);
	rig.states[rig.count] = (struct state){ .id = rig.tail.open };
	memcpy(rig.states[rig.count].disks, rig.now, sizeof(rig.now));
	rig.count++;
	rig.tail.committed = rig.tail.open;
	rig.tail.batches = 0;
	if (and_begin) {
		rig.newest++;
		describe(newest_state()->id, meta);
		build_begin(&rig.build, rig.dir, log_uuid, newest_state()->id, rig.newest, meta);
		rig.tail.open = rig.newest;
	} else {
		rig.tail.open = 0;
	}
	publish();
}

static void give_up(void)
{
	char name[UNDO_NAME_BYTES];

	if (!rig.tail.open)
		return;
	for (uint32_t disk = 0; disk < DISKS; disk++)
		overwrite(disk, 0, SECTORS, newest_state()->disks[disk]);
	memset(newest_state()->changed, 0, sizeof(newest_state()->changed));
	undo_layer_name(name, newest_state()->id, rig.tail.open);
	if (!random_below(3)) /* it was sealed, but not committed */
		build_seal(&rig.build);
	build_end(&rig.build);
	rig.tail.open = rig.tail.batches = 0;
	publish();
	assert_int_equal(unlinkat(rig.dir, name, 0), 0);
}

/* One layer of those from state @first on; its sectors in runs, content as it was then. */
static void merge_files(size_t first, size_t last)
{
	struct state *from = &rig.states[first];
	CLEANUP_FREE struct build_record *records = calloc(DISKS * SECTORS, sizeof(*records));
	char meta[64], name[UNDO_NAME_BYTES];
	size_t count = 0;

	describe(from->id, meta);
	for (size_t s = first + 1; s < last; s++)
		for (uint32_t disk = 0; disk < DISKS; disk++)
			for (uint32_t i = 0; i < SECTORS; i++)
				from->changed[disk][i] |= rig.states[s].changed[disk][i];
	for (uint32_t disk = 0; disk < DISKS; disk++)
		for (uint32_t i = 0, end; i < SECTORS; i = end) {
			end = i + 1;
			if (!from->changed[disk][i])
				continue;
			while (end < SECTORS && from->changed[disk][end] && end - i < 100)
				end++;
			records[count++] = (struct build_record){ .offset = i * SECTOR, .disk = disk, .length = (end - i) * SECTOR,
								  .content = from->disks[disk] + i * SECTOR };
		}
	build_layer(rig.dir, log_uuid, from->id, rig.states[last].id, meta, records, count, 5, true);
	for (size_t s = first; s < last; s++) {
		undo_layer_name(name, rig.states[s].id, rig.states[s + 1].id);
		assert_int_equal(unlinkat(rig.dir, name, 0), 0);
	}
	memmove(&rig.states[first + 1], &rig.states[last], (rig.count - last) * sizeof(*rig.states));
	rig.count -= last - first - 1;
}

/* Thin: as undo_use.h says it. */
static void merge(void)
{
	size_t first, last;
	int guard;

	if (rig.count < 3)
		return;
	first = random_below((uint32_t)rig.count - 2);
	last = first + 2 + random_below((uint32_t)(rig.count - first - 2));
	guard = undo_use_guard(rig.dir);
	if (guard < 0) {
		assert_int_equal(guard, -EWOULDBLOCK);
		return;
	}
	for (size_t s = first + 1; s < last; s++)
		if (undo_use_held(rig.dir, rig.states[s].id)) {
			close(guard);
			return;
		}
	merge_files(first, last);
	undo_use_clean(rig.dir);
	close(guard);
}

static void drop(void)
{
	char name[UNDO_NAME_BYTES];
	uint64_t oldest;
	int guard;

	if (rig.count < 2)
		return;
	guard = undo_use_guard(rig.dir);
	if (guard < 0)
		return;
	if (!undo_use_oldest(rig.dir, &oldest) || oldest > rig.states[0].id) {
		undo_layer_name(name, rig.states[0].id, rig.states[1].id);
		assert_int_equal(unlinkat(rig.dir, name, 0), 0);
		memmove(rig.states, rig.states + 1, (rig.count - 1) * sizeof(*rig.states));
		rig.count--;
	}
	close(guard);
}

static void writer_step(void)
{
	uint32_t dice = random_below(100);

	if (dice < 60)
		write_some();
	else if (dice < 72)
		begin_epoch();
	else if (dice < 84)
		end_epoch(random_below(2));
	else if (dice < 88)
		give_up();
	else if (dice < 95)
		merge();
	else
		drop();
}

/* ---- the views ----------------------------------------------------------------- */

static bool in_between;
static unsigned steps_in_between;

/* Every read of a view, of its layers and of the target, may come before or after something that the writer does. */
static ssize_t busy_pread(int fd, void *data, size_t bytes, off_t offset)
{
	bool busy = !rig.quiet && !in_between && !random_below(4), before = random_below(2);
	ssize_t moved;

	in_between |= busy;
	for (unsigned i = busy && before ? 1 + random_below(6) : 0; i; i--, steps_in_between++)
		writer_step();
	moved = undo_file_real.pread(fd, data, bytes, offset);
	for (unsigned i = busy && !before ? 1 + random_below(6) : 0; i; i--, steps_in_between++)
		writer_step();
	if (busy)
		in_between = false;
	return moved;
}

static void check_range(unsigned v, uint32_t disk, uint32_t at, uint32_t sectors)
{
	memset(rig.buffer, 0xee, sectors * SECTOR);
	assert_int_equal(undo_view_read(rig.views[v], disk, rig.target[disk], at * SECTOR, sectors * SECTOR, rig.buffer), 0);
	assert_memory_equal(rig.buffer, rig.view_states[v].disks[disk] + at * SECTOR, sectors * SECTOR);
}

static void read_view(unsigned v)
{
	uint32_t disk = random_below(DISKS), at = random_below(SECTORS), sectors = 1 + random_below(SECTORS - at);

	if (random_below(3) == 0)
		check_range(v, disk, at, sectors < 16 ? sectors : 16);
	else
		check_range(v, disk, at, sectors);
}

static void open_view(unsigned v)
{
	const struct state *state = &rig.states[random_below((uint32_t)rig.count)];
	int error;

	rig.view_states[v] = *state;
	error = undo_view_open(&rig.views[v], rig.path, rig.view_states[v].id, rig.error, sizeof(rig.error));
	/* It may have been dropped or merged meanwhile, but only as the view had not yet said that it is used. */
	if (error) {
		assert_int_equal(error, -ENOENT);
		assert_true(!rig.quiet && !rig.views[v]);
		for (size_t s = 0; s < rig.count; s++)
			assert_int_not_equal(rig.states[s].id, rig.view_states[v].id);
		return;
	}
	assert_true(undo_use_held(rig.dir, rig.view_states[v].id));
	if (undo_view_meta(rig.views[v]))
		assert_int_equal(json_integer_value(json_object_get(undo_view_meta(rig.views[v]), "id")), rig.view_states[v].id);
	for (uint32_t disk = 0; disk < DISKS; disk++)
		check_range(v, disk, 0, SECTORS);
}

static void close_view(unsigned v)
{
	undo_view_close(rig.views[v]);
	rig.views[v] = NULL;
}

/* ---- setup --------------------------------------------------------------------- */

static int setup(void **state)
{
	(void)state;
	rig = (struct rig){ .quiet = true };
	in_between = false;
	strcpy(rig.path, "/dev/shm/test_undo_view.XXXXXX");
	if (!mkdtemp(rig.path))
		return -1;
	rig.dir = open(rig.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rig.states = calloc(STATES + 1, sizeof(*rig.states));
	rig.view_states = calloc(VIEWS, sizeof(*rig.view_states));
	rig.buffer = io_buffer_alloc(DISK_BYTES);
	for (uint32_t disk = 0; disk < DISKS; disk++) {
		char name[32];

		snprintf(name, sizeof(name), "disk%u", disk);
		rig.target[disk] = openat(rig.dir, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		for (uint32_t i = 0; i < DISK_BYTES; i++)
			rig.now[disk][i] = disk && i < DISK_BYTES / 2 ? 0 : (uint8_t)(i / 512 + i % 7 + disk);
		build_put(rig.target[disk], rig.now[disk], DISK_BYTES, 0);
	}
	if (undo_tail_map(&rig.page, rig.dir, true))
		return -1;
	rig.newest = 10;
	rig.count = 1;
	rig.states[0].id = rig.tail.committed = 10;
	memcpy(rig.states[0].disks, rig.now, sizeof(rig.now));
	publish();
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	undo_file = &undo_file_real;
	for (unsigned v = 0; v < VIEWS; v++)
		close_view(v);
	if (rig.tail.open)
		build_end(&rig.build);
	undo_tail_unmap(rig.page);
	for (uint32_t disk = 0; disk < DISKS; disk++)
		close(rig.target[disk]);
	close(rig.dir);
	free(rig.states);
	free(rig.view_states);
	free(rig.buffer);
	snprintf(command, sizeof(command), "rm -rf %s", rig.path);
	return system(command);
}

/* An epoch that changes sector @at of disk 0 on. */
static void epoch(uint32_t at, uint32_t sectors, uint8_t fill)
{
	struct build_record record = { .offset = at * SECTOR, .length = sectors * SECTOR, .content = rig.now[0] + at * SECTOR };
	uint8_t data[64 * SECTOR];

	begin_epoch();
	if (sectors) {
		build_batch(&rig.build, &record, 1);
		memset(&newest_state()->changed[0][at], 1, sectors);
		rig.tail.batches = rig.build.seq;
		publish();
		memset(data, fill, sizeof(data));
		overwrite(0, at, sectors, data);
	}
	end_epoch(false);
}

static int open_at(unsigned v, uint64_t id)
{
	for (size_t s = 0; s < rig.count; s++)
		if (rig.states[s].id == id)
			rig.view_states[v] = rig.states[s];
	return undo_view_open(&rig.views[v], rig.path, id, rig.error, sizeof(rig.error));
}

static void check_view(unsigned v)
{
	for (uint32_t disk = 0; disk < DISKS; disk++)
		check_range(v, disk, 0, SECTORS);
}

/* ---- tests --------------------------------------------------------------------- */

static void test_every_state_after_every_step(void **state)
{
	static const struct undo_file_ops ops = { .pread = busy_pread };
	unsigned opened = 0;

	(void)state;
	/* Writing goes the plain way; reads of views through the hook. */
	undo_file = &ops;
	for (unsigned step = 0; step < steps; step++) {
		unsigned v = random_below(VIEWS);

		rig.quiet = step % 1000 < 300;
		writer_step();
		if (!rig.views[v]) {
			if (!random_below(3)) {
				open_view(v);
				opened++;
			}
		} else if (!random_below(40)) {
			close_view(v);
		} else {
			read_view(v);
		}
		if (rig.views[v] && !random_below(100)) {
			check_view(v);
			assert_int_equal(undo_view_check(rig.views[v], NULL, NULL, rig.error, sizeof(rig.error)), 0);
			assert_true(undo_view_memory(rig.views[v]) >= undo_view_pieces(rig.views[v]) * 40);
		}
	}
	print_message("%u views, %u steps in the middle of a read\n", opened, steps_in_between);
	assert_true(steps < 1000 || (opened > 10 && steps_in_between > steps / 10));
}

static struct thread {
	pthread_t id;
	bool stop;
} thread;

static void *write_on(void *user)
{
	struct thread *it = user;

	for (unsigned i = 0; i < 3000 || !__atomic_load_n(&it->stop, __ATOMIC_RELAXED); i++) {
		uint32_t dice = random_below(100);

		if (rig.count == STATES)
			merge();
		if (dice < 70)
			write_some();
		else if (dice < 80)
			begin_epoch();
		else if (dice < 90)
			end_epoch(random_below(2));
		else if (dice < 93)
			give_up();
		else if (dice < 96)
			merge();
	}
	return NULL;
}

static void test_a_thread_that_writes_on(void **state)
{
	uint64_t until;

	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		begin_epoch();
		write_some();
		write_some();
		end_epoch(false);
	}
	for (unsigned v = 0; v < VIEWS; v++)
		assert_int_equal(open_at(v, rig.states[v].id), 0);
	assert_int_equal(pthread_create(&thread.id, NULL, write_on, &thread), 0);
	until = util_now_ms() + 3000;
	/* The writer has the random numbers. */
	for (uint32_t i = 0; util_now_ms() < until; i++) {
		check_range(i % VIEWS, i % DISKS, i * 7 % (SECTORS - 60), 1 + i * 13 % 60);
		if (i % 10 == 0)
			check_view(i % VIEWS);
	}
	__atomic_store_n(&thread.stop, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread.id, NULL), 0);
	for (unsigned v = 0; v < VIEWS; v++)
		check_view(v);
}

static void test_the_present_state(void **state)
{
	(void)state;
	assert_int_equal(open_at(0, 10), 0);
	assert_null(undo_view_meta(rig.views[0]));
	check_view(0);
	epoch(5, 3, 0x11);
	check_view(0);
	assert_int_equal(json_integer_value(json_object_get(undo_view_meta(rig.views[0]), "id")), 10);
	assert_int_equal(open_at(1, newest_state()->id), 0);
	check_view(1);
	epoch(4, 3, 0x22);
	check_view(0);
	check_view(1);
}

static void test_states_that_are_not_there(void **state)
{
	uint64_t gone;

	(void)state;
	for (uint32_t i = 0; i < 5; i++)
		epoch(i, 4, (uint8_t)(i + 1));
	gone = rig.states[2].id;
	assert_int_equal(open_at(0, 9), -ENOENT);
	assert_int_equal(open_at(0, newest_state()->id + 1), -ENOENT);
	assert_non_null(strstr(rig.error, "points list"));
	assert_false(undo_use_held(rig.dir, 9));
	assert_int_equal(open_at(0, gone), 0);
	/* In use: neither merged over nor dropped. */
	for (unsigned i = 0; i < 200; i++) {
		merge();
		drop();
	}
	check_view(0);
	close_view(0);
	assert_int_equal(open_at(0, gone), 0);
	check_view(0);
	close_view(0);
	merge_files(0, rig.count - 1);
	assert_int_equal(open_at(0, gone), -ENOENT);
	/* Merged over, but the old files are there once more. */
	epoch(0, 4, 0x33);
	gone = rig.states[1].id;
	build_layer(rig.dir, log_uuid, rig.states[0].id, newest_state()->id, "{}", NULL, 0, 0, true);
	assert_int_equal(open_at(0, gone), -ENOENT);
}

static void test_a_log_that_is_none(void **state)
{
	struct undo_tail none = { .committed = 10 };

	(void)state;
	assert_int_equal(undo_view_open(&rig.views[0], "/dev/shm/test_undo_view.none", 10, rig.error, sizeof(rig.error)), -ENOENT);
	assert_int_equal(unlinkat(rig.dir, "tail", 0), 0);
	assert_int_equal(open_at(0, 10), -ENOENT);
	assert_non_null(strstr(rig.error, "tail"));
	undo_tail_unmap(rig.page);
	assert_int_equal(undo_tail_map(&rig.page, rig.dir, true), 0);
	undo_tail_publish(rig.page, &none);
	assert_int_equal(open_at(0, 10), -ESTALE);
	publish();
	assert_int_equal(open_at(0, 10), 0);
	check_view(0);
	/* The log is given up, or becomes another one, while it is read. */
	undo_tail_publish(rig.page, &none);
	assert_int_equal(undo_view_read(rig.views[0], 0, rig.target[0], 0, 4096, rig.buffer), -ESTALE);
	assert_int_equal(undo_view_refresh(rig.views[0]), -ESTALE);
}

static void test_ranges_that_make_no_sense(void **state)
{
	(void)state;
	assert_int_equal(open_at(0, 10), 0);
#define READ(offset, bytes) undo_view_read(rig.views[0], 0, rig.target[0], offset, bytes, rig.buffer)
	assert_int_equal(READ(1, 512), -EINVAL);
	assert_int_equal(READ(0, 511), -EINVAL);
	assert_int_equal(READ((uint64_t)INT64_MAX - 511, 1024), -EINVAL);
	assert_int_equal(READ(DISK_BYTES - 512, 1024), -ENODATA);
	assert_int_equal(READ(DISK_BYTES - 512, 512), 0);
	assert_int_equal(READ(0, 0), 0);
#undef READ
}

static void flip(const char *name, off_t at)
{
	CLEANUP_FD int fd = openat(rig.dir, name, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static void count_progress(void *user, uint64_t done, uint64_t total)
{
	uint64_t *most = user;

	assert_true(done > *most && done <= total);
	*most = done;
}

static void test_damage_is_an_error(void **state)
{
	char name[UNDO_NAME_BYTES];
	uint64_t done = 0;

	(void)state;
	epoch(0, 16, 0x11);
	epoch(8, 16, 0x22);
	epoch(16, 16, 0x33);
	assert_int_equal(open_at(0, 10), 0);
	assert_int_equal(undo_view_check(rig.views[0], count_progress, &done, rig.error, sizeof(rig.error)), 0);
	assert_int_equal(done, 3 * 16 * SECTOR);
	undo_layer_name(name, rig.states[1].id, rig.states[2].id);
	/* One record of 16 sectors in the first batch, of which the last 8 count. */
	flip(name, 2 * UNDO_BLOCK + 100);
	assert_int_equal(undo_view_read(rig.views[0], 0, rig.target[0], 0, 16 * SECTOR, rig.buffer), 0);
	assert_int_equal(undo_view_read(rig.views[0], 0, rig.target[0], 0, 17 * SECTOR, rig.buffer), -EBADMSG);
	assert_int_equal(undo_view_check(rig.views[0], NULL, NULL, rig.error, sizeof(rig.error)), -EBADMSG);
	assert_non_null(strstr(rig.error, name));
	check_range(0, 0, 24, 8);
	/* Its head: whoever has it open reads on, nobody else can. */
	flip(name, 20);
	check_range(0, 0, 24, 8);
	assert_int_equal(open_at(1, rig.states[2].id), 0);
	assert_int_equal(open_at(2, 10), -EBADMSG);
	assert_non_null(strstr(rig.error, "newer point"));
	/* Gone. */
	assert_int_equal(unlinkat(rig.dir, name, 0), 0);
	assert_int_equal(open_at(2, 10), -ENOENT);
}

static void test_a_layer_that_is_not_what_the_tail_says(void **state)
{
	char name[UNDO_NAME_BYTES];

	(void)state;
	begin_epoch();
	write_some();
	assert_int_equal(open_at(0, 10), 0);
	/* More batches than there are. */
	rig.tail.batches += 1;
	publish();
	assert_int_equal(undo_view_refresh(rig.views[0]), -EBADMSG);
	rig.tail.batches -= 1;
	publish();
	assert_int_equal(undo_view_refresh(rig.views[0]), 0);
	check_view(0);
	/* Committed, but never sealed. */
	rig.tail.committed = rig.tail.open;
	rig.tail.open = 0;
	publish();
	assert_int_equal(undo_view_refresh(rig.views[0]), -EBADMSG);
	rig.tail.open = rig.tail.committed;
	rig.tail.committed = 10;
	publish();
	assert_int_equal(undo_view_refresh(rig.views[0]), 0);
	/* The one that is open is not there. */
	undo_layer_name(name, 10, rig.tail.open);
	assert_int_equal(unlinkat(rig.dir, name, 0), 0);
	assert_int_equal(open_at(1, 10), -ENOENT);
	check_view(0);
	build_end(&rig.build);
	rig.tail.open++;
	publish();
	assert_int_equal(undo_view_refresh(rig.views[0]), -EBADMSG);
	rig.tail.open = 0;
}

static void test_a_writer_that_died_in_the_middle(void **state)
{
	uint64_t sequence;
	CLEANUP_FD int fd = -1;

	(void)state;
	assert_int_equal(open_at(0, 10), 0);
	fd = openat(rig.dir, "tail", O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(fd, &sequence, 8, 8), 8);
	sequence++;
	assert_int_equal(pwrite(fd, &sequence, 8, 8), 8);
	assert_int_equal(undo_view_read(rig.views[0], 0, rig.target[0], 0, 4096, rig.buffer), -EAGAIN);
	assert_int_equal(open_at(1, 10), -EAGAIN);
	assert_non_null(strstr(rig.error, "master target"));
	publish();
	check_view(0);
}

static unsigned open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* Epochs for days: what was merged behind a view's back is not held for ever. */
static void test_files_of_the_past_are_let_go(void **state)
{
	unsigned before = open_files(), most = 0;

	(void)state;
	epoch(0, 4, 1);
	assert_int_equal(open_at(0, 10), 0);
	for (uint32_t i = 0; i < 1500; i++) {
		unsigned files;

		if (rig.count == STATES)
			merge_files(1, rig.count - 1);
		epoch(i % 250, 1 + i % 6, (uint8_t)i);
		assert_int_equal(undo_view_refresh(rig.views[0]), 0);
		files = open_files();
		if (files > most)
			most = files;
		if (i % 50 == 0)
			check_view(0);
	}
	check_view(0);
	assert_true(most > before + 200 && most < before + 500);
	assert_true(undo_view_pieces(rig.views[0]) <= 2 * SECTORS);
}

static void test_more_layers_than_files_may_be_open(void **state)
{
	struct rlimit old, limit;

	(void)state;
	for (uint64_t i = 0; i < 200; i++)
		build_layer(rig.dir, log_uuid, 10 + i, 11 + i, "{}", NULL, 0, 0, true);
	rig.tail.committed = 210;
	publish();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	limit = (struct rlimit){ 100, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(open_at(0, 10), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(limit.rlim_cur, old.rlim_max);
	check_range(0, 0, 0, 8);
	close_view(0);
	/* Not to be raised. */
	if (!fork()) {
		limit = (struct rlimit){ 100, 100 };
		_exit(setrlimit(RLIMIT_NOFILE, &limit) || undo_view_open(&rig.views[0], rig.path, 10, rig.error, sizeof(rig.error)) != -EMFILE ||
		      !strstr(rig.error, "LimitNOFILE"));
	} else {
		int status;

		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_false(undo_use_held(rig.dir, 10));
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_the_present_state), T(test_states_that_are_not_there), T(test_a_log_that_is_none),
		T(test_ranges_that_make_no_sense), T(test_damage_is_an_error), T(test_a_layer_that_is_not_what_the_tail_says),
		T(test_a_writer_that_died_in_the_middle), T(test_more_layers_than_files_may_be_open),
		T(test_files_of_the_past_are_let_go), T(test_every_state_after_every_step), T(test_a_thread_that_writes_on),
	};

	log_init("test", (enum log_level)0);
	if (argc > 1)
		steps = (unsigned)strtoul(argv[1], NULL, 10);
	if (argc > 2)
		random_state ^= strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15ull;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The spool of the process server on a directory, without a network: epochs in, a kill
 * (the files as they are, a new spool over them), epochs out; damage of every kind in between.
 *
 * LINK: userspace/process-server/ring.c userspace/process-server/segment.c userspace/process-server/spool.c userspace/process-server/spool_read.c userspace/process-server/spool_recover.c userspace/process-server/spool_store.c
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/io_faults.h"
#include "userspace/process-server/spool.h"
#include "util.h"

#define MACHINE "00000000-0000-4000-8000-000000000001"

struct rig {
	sd_event *event;
	struct spool_store store;
	struct spool *spool;
	struct spool_known known;
	char dir[64], error[512];
	unsigned completes, fails, readables;
};

static void on_complete(const struct spool_epoch *epoch, void *user)
{
	(void)epoch;
	((struct rig *)user)->completes++;
}

static void on_failed(const struct spool_epoch *epoch, int error, void *user)
{
	(void)epoch;
	(void)error;
	((struct rig *)user)->fails++;
}

static void on_space(void *user) { (void)user; }
static void on_readable(void *user) { ((struct rig *)user)->readables++; }

static int on_save(void *user)
{
	struct rig *rig = user;

	rig->known = (struct spool_known){ rig->spool->last_complete, rig->spool->last_applied, rig->spool->max_epoch,
					   rig->spool->first_number };
	rig->spool->saved_complete = rig->spool->last_complete;
	return 0;
}

static const struct spool_ops ops = { on_complete, on_failed, on_space, on_readable, on_save };

static void rig_open(struct rig *rig, const struct io_ops *io)
{
	assert_int_equal(spool_store_open(&rig->store, rig->dir, rig->error, sizeof(rig->error)), 0);
	rig->store.quota_bytes = 32 * MIB;
	rig->store.segment_bytes = 2 * MIB;
	rig->store.window_bytes = 4 * MIB;
	rig->store.used_bytes = 0;
	rig->store.direct = !io;
	assert_int_equal(io_engine_new(&rig->store.io, rig->event, io, 64), 0);
	assert_int_equal(spool_open(&rig->spool, &rig->store, MACHINE, &rig->known, &ops, rig, rig->error, sizeof(rig->error)), 0);
}

/* As after a kill: nothing is written that was not. */
static void rig_close(struct rig *rig)
{
	io_engine_free(rig->store.io);
	spool_free(rig->spool);
	spool_store_close(&rig->store);
}

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	memset(&io_faults, 0, sizeof(io_faults));
	io_faults.fail_op = -1;
	strcpy(rig->dir, "/tmp/test_spool.XXXXXX");
	if (!mkdtemp(rig->dir) || sd_event_new(&rig->event) < 0)
		return -1;
	rig_open(rig, NULL);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;
	char command[128];

	rig_close(rig);
	sd_event_unref(rig->event);
	snprintf(command, sizeof(command), "rm -rf %s", rig->dir);
	free(rig);
	return system(command);
}

static void turn(struct rig *rig, unsigned ms)
{
	uint64_t end = util_now_ms() + ms;

	while (util_now_ms() < end && (io_in_flight(rig->store.io) || sd_event_run(rig->event, 1000) > 0))
		assert_true(sd_event_run(rig->event, 10000) >= 0);
}

static void wait_for(struct rig *rig, const unsigned *counter, unsigned value)
{
	for (unsigned i = 0; i < 1000 && *counter < value; i++)
		assert_true(sd_event_run(rig->event, 10000) >= 0);
	assert_int_equal(*counter, value);
}

static void fill(uint8_t *data, size_t bytes, uint64_t epoch, uint32_t seq)
{
	for (size_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)(i * 7 + epoch * 13 + seq * 31 + i / 251);
}

static uint32_t frame_bytes(uint32_t seq) { return 4096u * (1 + seq * 37 % 60); }

/* Append an epoch of @frames DATA frames; @end: with END. */
static void append(struct rig *rig, uint64_t epoch, uint64_t previous, uint64_t attempt, unsigned frames, bool end)
{
	struct wire_frame f = { .type = WIRE_BEGIN, .epoch = epoch, .attempt = attempt, .offset = previous };
	uint64_t digest = 0, bytes = 0;

	assert_int_equal(spool_append(rig->spool, &f), 0);
	for (uint32_t seq = 1; seq <= frames; seq++) {
		uint8_t *data;

		f = (struct wire_frame){ .type = WIRE_DATA, .epoch = epoch, .attempt = attempt, .seq = seq, .disk = 1,
					 .offset = seq * 4096u, .length = frame_bytes(seq), .payload_bytes = frame_bytes(seq) };
		for (unsigned i = 0; !(data = spool_reserve(rig->spool, f.payload_bytes)) && i < 500; i++)
			turn(rig, 5);
		assert_non_null(data);
		fill(data, f.payload_bytes, epoch, seq);
		f.payload_crc = wire_crc(data, f.payload_bytes);
		digest = wire_digest_add(digest, &f);
		bytes += f.length;
		assert_int_equal(spool_append(rig->spool, &f), 0);
	}
	f = (struct wire_frame){ .type = WIRE_END, .epoch = epoch, .attempt = attempt, .seq = frames + 1, .offset = digest,
				 .length = bytes };
	if (end)
		assert_int_equal(spool_append(rig->spool, &f), 0);
}

/* Read an epoch back and compare. */
static void verify(struct rig *rig, const struct spool_epoch *e)
{
	uint64_t pos = e->start;
	uint8_t *expected = malloc(WIRE_PAYLOAD_MAX);

	spool_hold(rig->spool, e);
	for (uint32_t seq = 0; seq < e->frames; seq++) {
		struct wire_frame f;
		const void *payload;
		struct ring *ring;
		int r;

		for (unsigned i = 0; (r = spool_frame(rig->spool, &pos, &f, &payload, &ring)) == -EAGAIN && i < 1000; i++)
			assert_true(sd_event_run(rig->event, 10000) >= 0);
		assert_int_equal(r, 0);
		assert_int_equal(f.seq, seq);
		assert_int_equal(f.epoch, e->epoch);
		assert_int_equal(f.attempt, e->attempt);
		if (f.type == WIRE_DATA) {
			fill(expected, f.payload_bytes, f.epoch, f.seq);
			assert_memory_equal(payload, expected, f.payload_bytes);
		}
		pos += WIRE_HEADER_BYTES + f.payload_bytes;
	}
	free(expected);
	spool_hold(rig->spool, NULL);
	spool_read_stop(rig->spool);
}

static void verify_all(struct rig *rig, unsigned count)
{
	unsigned found = 0;

	for (const struct spool_epoch *e = rig->spool->epochs; e; e = e->next) {
		if (e->state != SPOOL_COMPLETE)
			continue;
		verify(rig, e);
		found++;
	}
	assert_int_equal(found, count);
}

static void test_comes_out_as_it_went_in(void **state)
{
	struct rig *rig = *state;

	append(rig, 1, 0, 11, 5, true);
	append(rig, 2, 1, 12, 90, true);
	wait_for(rig, &rig->completes, 2);
	verify_all(rig, 2);
	assert_int_equal(rig->spool->last_complete, 2);
}

static void test_survives_a_kill(void **state)
{
	struct rig *rig = *state;

	append(rig, 1, 0, 11, 40, true);
	append(rig, 2, 1, 12, 40, true);
	wait_for(rig, &rig->completes, 2);
	append(rig, 3, 2, 13, 70, false);
	turn(rig, 50);
	rig_close(rig);
	rig_open(rig, NULL);
	assert_int_equal(rig->spool->last_complete, 2);
	assert_int_equal(rig->spool->max_epoch, 3);
	verify_all(rig, 2);
	/* and goes on, in a new segment, with the same number and another attempt */
	append(rig, 3, 2, 14, 70, true);
	wait_for(rig, &rig->completes, 3);
	verify_all(rig, 3);
	rig_close(rig);
	rig_open(rig, NULL);
	verify_all(rig, 3);
}

static void test_applied_is_freed_and_remembered(void **state)
{
	struct rig *rig = *state;
	uint64_t number = 0;

	for (uint64_t e = 1; e <= 12; e++) {
		append(rig, e, e - 1, e, 40, true);
		wait_for(rig, &rig->completes, (unsigned)e);
		spool_applied(rig->spool, e);
		turn(rig, 20);
		assert_true(rig->store.used_bytes <= 12 * MIB);
		if (e % 3 == 1) { /* its first segment is freed, the one with END is the newest */
			rig_close(rig);
			rig_open(rig, NULL);
			assert_int_equal(rig->spool->last_complete, e);
		}
		if (e % 3 == 0) { /* with an open epoch over several new segments, as when a kill hits */
			append(rig, e + 1, e, 100 + e, 60, false);
			turn(rig, 20);
			rig_close(rig);
			rig_open(rig, NULL);
			assert_int_equal(rig->spool->last_complete, e);
			assert_true(rig->spool->next_number > number);
			number = rig->spool->next_number;
		}
	}
	spool_reclaim(rig->spool, true);
	turn(rig, 50);
	spool_reclaim(rig->spool, true);
	assert_int_equal(rig->store.used_bytes, 0);
	rig_close(rig);
	rig_open(rig, NULL);
	assert_int_equal(rig->spool->last_complete, 12);
}

static void test_quota_holds(void **state)
{
	struct rig *rig = *state;
	uint64_t e = 0;
	bool full = false;

	while (!full && e < 100) {
		struct wire_frame f = { .type = WIRE_BEGIN, .epoch = e + 1, .attempt = e + 1, .offset = e };

		e++;
		assert_int_equal(spool_append(rig->spool, &f), 0);
		for (uint32_t seq = 1; seq < 40 && !full; seq++) {
			void *data = NULL;

			for (unsigned i = 0; !(data = spool_reserve(rig->spool, 65536)) && i < 400; i++) {
				full = rig->spool->waits == SPOOL_WAIT_QUOTA;
				if (full)
					break;
				turn(rig, 5);
			}
			if (!data)
				break;
			fill(data, 65536, e, seq);
			f = (struct wire_frame){ .type = WIRE_DATA, .epoch = e, .attempt = e, .seq = seq, .disk = 1, .length = 65536,
						 .payload_bytes = 65536, .payload_crc = wire_crc(data, 65536) };
			assert_int_equal(spool_append(rig->spool, &f), 0);
		}
		if (full)
			break;
		spool_abort(rig->spool); /* not held: freed at once */
		if (e == 5)
			append(rig, ++e, 0, 77, 60, true), wait_for(rig, &rig->completes, 1);
		if (e > 50)
			break;
		turn(rig, 30);
	}
	assert_false(full); /* aborted epochs leave no trace */
	assert_true(rig->store.used_bytes <= rig->store.quota_bytes);
	verify_all(rig, 1);
	for (e = 60; !full && e < 100; e++) {
		append(rig, e, e - 1, e, 0, true);
		for (unsigned i = 0; i < 60 && !full; i++) {
			full = !spool_reserve(rig->spool, WIRE_PAYLOAD_MAX) && rig->spool->waits == SPOOL_WAIT_QUOTA;
			spool_unreserve(rig->spool);
		}
		if (!full && rig->store.used_bytes + 4 * MIB < rig->store.quota_bytes)
			append(rig, 200 + e, 0, e, 40, true);
		turn(rig, 20);
	}
	assert_true(rig->store.used_bytes <= rig->store.quota_bytes);
}

/* Change @bytes at @offset of a segment file; number 0: the newest. */
static void corrupt(struct rig *rig, uint64_t number, off_t offset)
{
	char path[256], name[SEGMENT_NAME_BYTES];
	int fd;

	segment_name(number, name);
	snprintf(path, sizeof(path), "%s/%s/%s", rig->dir, MACHINE, name);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "\xff\x5a\xa5", 3, offset), 3);
	close(fd);
}

static void test_torn_tail_is_cut(void **state)
{
	struct rig *rig = *state;

	append(rig, 1, 0, 11, 10, true);
	wait_for(rig, &rig->completes, 1);
	append(rig, 2, 1, 12, 10, false);
	turn(rig, 50);
	rig_close(rig);
	corrupt(rig, 1, 1400000);
	rig_open(rig, NULL);
	assert_int_equal(rig->spool->last_complete, 1);
	verify_all(rig, 1);
	assert_int_equal(rig->spool->damaged_segments, 0);
}

static void test_damage_is_set_aside(void **state)
{
	struct rig *rig = *state;

	append(rig, 1, 0, 11, 3, true);
	append(rig, 2, 1, 12, 60, true);
	append(rig, 3, 2, 13, 60, true);
	wait_for(rig, &rig->completes, 3);
	rig_close(rig);
	corrupt(rig, 2, 900000);
	rig_open(rig, NULL);
	assert_true(rig->spool->damaged_segments > 0);
	verify_all(rig, 1); /* epoch 2 is damaged, 3 cannot follow 1 */
}

static void test_other_files_harm_nothing(void **state)
{
	struct rig *rig = *state;
	char path[256];
	int fd;

	append(rig, 1, 0, 11, 3, true);
	wait_for(rig, &rig->completes, 1);
	rig_close(rig);
	/* a segment of which nothing but the name reached the disk, and one that is none */
	snprintf(path, sizeof(path), "%s/%s/0000000000000002.seg", rig->dir, MACHINE);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, 2 << 20), 0);
	close(fd);
	rig_open(rig, NULL);
	verify_all(rig, 1);
	assert_int_equal(rig->spool->damaged_segments, 0);
	assert_int_equal(access(path, F_OK), -1);
	rig_close(rig);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(write(fd, "junk", 4), 4);
	close(fd);
	rig_open(rig, NULL);
	verify_all(rig, 1);
	assert_int_equal(rig->spool->damaged_segments, 1);
}

static void test_reset_is_for_good(void **state)
{
	struct rig *rig = *state;

	append(rig, 1, 0, 11, 3, true);
	append(rig, 2, 1, 12, 3, true);
	wait_for(rig, &rig->completes, 2);
	assert_int_equal(spool_reset(rig->spool, 1), 0);
	assert_int_equal(rig->spool->last_complete, 1);
	rig_close(rig);
	rig_open(rig, NULL);
	assert_int_equal(rig->spool->last_complete, 1);
	verify_all(rig, 0);
	append(rig, 3, 1, 13, 3, true);
	wait_for(rig, &rig->completes, 3);
	rig_close(rig);
	rig_open(rig, NULL);
	verify_all(rig, 1);
	assert_int_equal(rig->spool->last_complete, 3);
}

/* ---- files with an earlier life ---- */

static int file_of(struct rig *rig, uint64_t number, int flags)
{
	char path[256], name[SEGMENT_NAME_BYTES];
	int fd;

	segment_name(number, name);
	snprintf(path, sizeof(path), "%s/%s/%s", rig->dir, MACHINE, name);
	fd = open(path, flags, 0600);
	assert_true(fd >= 0);
	return fd;
}

static void test_freed_files_are_used_again(void **state)
{
	struct rig *rig = *state;
	unsigned spares = 0;

	rig->store.quota_bytes = 64 * MIB;
	for (uint64_t e = 1; e <= 24; e++) {
		append(rig, e, e - 1, e, 30 + (unsigned)(e * 29 % 41), true);
		wait_for(rig, &rig->completes, (unsigned)e);
		if (e % 8 == 7) { /* two epochs over new and used files, one complete and one open */
			append(rig, e + 100, e, e, 20, false);
			turn(rig, 20);
			rig_close(rig);
			rig_open(rig, NULL);
			rig->store.quota_bytes = 64 * MIB;
			assert_int_equal(rig->spool->damaged_segments, 0);
			assert_int_equal(rig->spool->last_complete, e);
			verify_all(rig, 1);
		}
		spool_applied(rig->spool, e);
		turn(rig, 20);
		assert_true(rig->store.spare_bytes <= rig->store.quota_bytes / 4);
		assert_true(rig->store.used_bytes <= rig->store.quota_bytes);
		spares += rig->store.spare_count;
	}
	assert_true(spares > 0);
	while (spool_spare_drop(&rig->store, NULL, 0))
		;
	assert_int_equal(rig->store.spare_bytes, 0);
}

/*
 * The worst that can lie behind a tail: the frames of an earlier life of the file, of the same machine,
 * epoch and attempt, exactly where the next frame would be, up to an END whose digest is right. As if all of
 * segment 2 but its header and its first frames had been lost in a power cut.
 */
static void test_an_earlier_life_is_never_replayed(void **state)
{
	struct rig *rig = *state;
	const unsigned frames = 6;
	size_t size = 2 * MIB;
	uint8_t *old = malloc(size), *new = malloc(size);
	int fd;

	append(rig, 1, 0, 11, frames, true);
	wait_for(rig, &rig->completes, 1);
	rig_close(rig);
	fd = file_of(rig, 1, O_RDONLY);
	assert_int_equal(pread(fd, old, size, 0), size);
	close(fd);
	for (unsigned kept = 0; kept <= frames + 2; kept++) {
		struct segment_header header = { .machine = MACHINE, .number = 2 };
		uint64_t at = SEGMENT_HEADER_BYTES;
		unsigned complete = 0;
		char command[128];

		snprintf(command, sizeof(command), "rm -rf %s/%s", rig->dir, MACHINE);
		assert_int_equal(system(command), 0);
		rig->known = (struct spool_known){ 0 };
		rig_open(rig, NULL); /* makes the directory */
		rig_close(rig);
		memcpy(new, old, size);
		segment_encode(&header, new);
		for (unsigned i = 0; i < kept; i++) {
			struct wire_frame f;

			assert_int_equal(segment_frame(new + at, 1, &f), 0);
			assert_int_not_equal(segment_frame(new + at, 2, &f), 0);
			segment_mark(new + at, 1);
			segment_mark(new + at, 2);
			assert_int_equal(segment_frame(new + at, 2, &f), 0);
			at += WIRE_HEADER_BYTES + f.payload_bytes;
		}
		fd = file_of(rig, 2, O_RDWR | O_CREAT);
		assert_int_equal(pwrite(fd, new, size, 0), size);
		close(fd);
		rig_open(rig, NULL);
		for (const struct spool_epoch *e = rig->spool->epochs; e; e = e->next)
			complete += e->state == SPOOL_COMPLETE;
		assert_int_equal(complete, kept == frames + 2);
		assert_int_equal(rig->spool->last_complete, kept == frames + 2);
		assert_int_equal(rig->spool->damaged_segments, 0);
		rig_close(rig);
	}
	rig_open(rig, NULL);
	free(old);
	free(new);
}

static void test_a_header_of_an_earlier_life_is_removed(void **state)
{
	struct rig *rig = *state;
	char command[512];

	append(rig, 1, 0, 11, 3, true);
	wait_for(rig, &rig->completes, 1);
	rig_close(rig);
	/* renamed, but nothing written yet; and one that waits; in front of one that is good */
	snprintf(command, sizeof(command), "cd %s/%s && cp 0000000000000001.seg 0000000000000002.seg && "
		 "cp 0000000000000001.seg 0000000000000000.spare", rig->dir, MACHINE);
	assert_int_equal(system(command), 0);
	rig_open(rig, NULL);
	verify_all(rig, 1);
	assert_int_equal(rig->spool->damaged_segments, 0);
	snprintf(command, sizeof(command), "cd %s/%s && test ! -e 0000000000000002.seg && test ! -e 0000000000000000.spare",
		 rig->dir, MACHINE);
	assert_int_equal(system(command), 0);
	append(rig, 2, 1, 12, 3, true);
	wait_for(rig, &rig->completes, 2);
	verify_all(rig, 2);
}

static void test_second_instance_is_refused(void **state)
{
	struct rig *rig = *state;
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (!child) {
		struct spool_store other = { 0 };
		char error[512] = "";
		int r = spool_store_open(&other, rig->dir, error, sizeof(error));

		_exit(strstr(error, "another process server uses it") ? -r : 255);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), EWOULDBLOCK);
}

/* ---- with an engine that fails ---- */

static void test_write_errors_are_waited_out(void **state)
{
	struct rig *rig = *state;

	rig_close(rig);
	rig_open(rig, &io_faults_ops);
	append(rig, 1, 0, 11, 2, true);
	wait_for(rig, &rig->completes, 1);
	io_faults.fail_at = io_faults.steps + 1;
	io_faults.fail_on = true;
	io_faults.fail_op = IO_WRITE;
	io_faults.torn = true;
	append(rig, 2, 1, 12, 8, true);
	turn(rig, 50);
	assert_int_equal(rig->completes, 1);
	assert_int_not_equal(rig->spool->io_error, 0);
	io_faults.fail_at = 0;
	spool_retry(rig->spool);
	wait_for(rig, &rig->completes, 2);
	verify_all(rig, 2);
	rig_close(rig);
	rig_open(rig, NULL);
	verify_all(rig, 2);
}

static void test_failed_sync_is_not_trusted(void **state)
{
	struct rig *rig = *state;

	rig_close(rig);
	rig_open(rig, &io_faults_ops);
	append(rig, 1, 0, 11, 2, true);
	wait_for(rig, &rig->completes, 1);
	io_faults.fail_at = io_faults.steps + 1;
	io_faults.fail_on = true;
	io_faults.fail_op = IO_SYNC;
	append(rig, 2, 1, 12, 2, true);
	wait_for(rig, &rig->fails, 1);
	io_faults.fail_at = 0;
	assert_int_equal(rig->completes, 1);
	assert_int_equal(rig->spool->last_complete, 1);
	append(rig, 2, 1, 13, 3, true); /* again, in a new segment */
	wait_for(rig, &rig->completes, 2);
	verify_all(rig, 2);
}

static void test_short_and_reordered_io(void **state)
{
	struct rig *rig = *state;

	rig_close(rig);
	rig_open(rig, &io_faults_ops);
	io_faults.short_every = 3;
	io_faults.interrupt_every = 5;
	io_faults.reorder = true;
	for (uint64_t e = 1; e <= 4; e++)
		append(rig, e, e - 1, e, 40, true);
	wait_for(rig, &rig->completes, 4);
	verify_all(rig, 4);
	rig_close(rig);
	io_faults.short_every = io_faults.interrupt_every = 0;
	io_faults.reorder = false;
	rig_open(rig, NULL);
	verify_all(rig, 4);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_comes_out_as_it_went_in),  T(test_survives_a_kill),	T(test_applied_is_freed_and_remembered),
		T(test_quota_holds),		  T(test_torn_tail_is_cut),	T(test_damage_is_set_aside),
		T(test_other_files_harm_nothing), T(test_reset_is_for_good),	T(test_second_instance_is_refused),
		T(test_freed_files_are_used_again), T(test_an_earlier_life_is_never_replayed),
		T(test_a_header_of_an_earlier_life_is_removed),
		T(test_write_errors_are_waited_out), T(test_failed_sync_is_not_trusted), T(test_short_and_reordered_io),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

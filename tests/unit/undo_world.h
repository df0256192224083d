/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_world: a master target with one machine and no network, on image files, and a model of it that keeps the content of every state.
 * Included by the tests of the undo log as a whole (test_undo_model.c, test_undo_crash.c). All of the program is real but the sessions
 * and the policy of thin.c; the I/O engine is io_faults.h, the blocking file calls go through crash.h.
 */
#ifndef REPROTECT_TESTS_UNDO_WORLD_H
#define REPROTECT_TESTS_UNDO_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "crash.h"
#include "log.h"
#include "undo_view.h"
#include "userspace/master-target/machine.h"
#include "userspace/master-target/merge.h"
#include "userspace/master-target/session.h"
#include "userspace/master-target/thin.h"
#include "util.h"
#include "wire.h"

#define WORLD_DISKS 2
#define WORLD_STATES 64
#define GRANULE 4096u

static const uint32_t world_size[WORLD_DISKS] = { 128 * 1024, 64 * 1024 + 1536 };
static const char *const world_disk[WORLD_DISKS] = { "root", "data" };

struct content {
	uint8_t *disk[WORLD_DISKS];
};

/* A state that can be had. */
struct known {
	uint64_t id, epoch;
	struct content content;
	struct undo_view *view;
};

static struct world {
	char dir[96], log[400];
	struct server server;
	struct machine *machine;
	struct hello hello;
	bool connected;
	/* the source */
	struct content source;
	bool dirty[WORLD_DISKS][64];
	uint64_t epoch, attempt, digest, bytes; /* epoch: the last one that was acknowledged */
	uint64_t sending;
	uint32_t seq;
	/* what the program said */
	unsigned acks, faults;
	struct fault fault;
	/* the model: oldest first, the last one is the present */
	struct known known[WORLD_STATES];
	size_t count;
	enum undo_full full_answer;
	unsigned no_space; /* so many allocations fail */
	unsigned seed;
} world;

/* Buffers of a megabyte come and go: what was freed is not kept for long. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "quarantine_size_mb=4"; }

static inline unsigned luck(unsigned n)
{
	return (unsigned)rand_r(&world.seed) % n;
}

/* ---- contents -------------------------------------------------------------- */

static inline void content_new(struct content *content, const struct content *from)
{
	for (int d = 0; d < WORLD_DISKS; d++) {
		content->disk[d] = calloc(1, world_size[d]);
		if (from)
			memcpy(content->disk[d], from->disk[d], world_size[d]);
	}
}

static inline void content_free(struct content *content)
{
	for (int d = 0; d < WORLD_DISKS; d++)
		free(content->disk[d]);
}

static inline void known_remove(size_t at)
{
	if (world.known[at].view)
		undo_view_close(world.known[at].view);
	content_free(&world.known[at].content);
	memmove(&world.known[at], &world.known[at + 1], (world.count - at - 1) * sizeof(world.known[0]));
	world.count--;
}

static inline void known_add(uint64_t id, uint64_t epoch, const struct content *content)
{
	assert_true(world.count < WORLD_STATES);
	memset(&world.known[world.count], 0, sizeof(world.known[0]));
	world.known[world.count].id = id;
	world.known[world.count].epoch = epoch;
	content_new(&world.known[world.count].content, content);
	world.count++;
}

static inline struct known *present(void)
{
	return &world.known[world.count - 1];
}

/* ---- what stands in for session.c and thin.c ---------------------------------- */

static inline void on_ack(void *user, uint32_t flags, uint64_t epoch, uint64_t attempt, uint32_t seq, const json_t *mismatch)
{
	(void)user;
	(void)attempt;
	(void)seq;
	(void)mismatch;
	if (flags & WIRE_ACK_APPLIED && epoch == world.sending)
		world.acks++;
}

static inline void on_fault(void *user, const struct fault *fault, uint64_t epoch)
{
	(void)user;
	(void)epoch;
	world.fault = *fault;
	world.faults++;
}

static inline void on_nothing(void *user) { (void)user; }
static inline enum undo_full on_full(void *user) { return machine_log_full(user); }

const struct apply_events session_apply_events = { .ack = on_ack, .fault = on_fault, .ready = on_nothing,
						   .idle = on_nothing, .released = on_nothing, .full = on_full };

void session_waited(struct machine *machine, const struct fault *fault) { (void)machine; (void)fault; }
void session_put_off(struct machine *machine) { (void)machine; }
void session_detach(struct machine *machine) { (void)machine; }
void thin_forget(struct thin *thin, const struct machine *machine) { (void)thin; (void)machine; }

bool thin_volume_fit(struct thin *thin, char *why, char *remedy)
{
	(void)thin;
	*why = *remedy = 0;
	return true;
}

bool machine_log_paused(struct machine *machine) { (void)machine; return false; }

enum undo_full machine_log_full(struct machine *machine)
{
	if (world.full_answer == UNDO_FULL_AGAIN && machine->log.chain.count > 0 && world.count > 1) {
		known_remove(0);
		assert_int_equal(undo_log_drop(&machine->log), 0);
		return UNDO_FULL_AGAIN;
	}
	if (world.full_answer == UNDO_FULL_GIVE_UP && !machine->log.chain.count)
		return UNDO_FULL_GIVE_UP;
	return UNDO_FULL_FAIL;
}

static inline int world_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	if (world.no_space) {
		world.no_space--;
		return -ENOSPC;
	}
	return crash_fallocate(fd, mode, offset, bytes);
}

/* ---- the program ------------------------------------------------------------- */

static inline void world_load(void)
{
	static struct undo_file_ops ops;
	struct fault fault = { 0 };

	ops = crash_file_ops;
	ops.fallocate = world_fallocate;
	undo_file = &ops;
	io_faults.before = crash_before;
	memset(&world.server, 0, sizeof(world.server));
	world.server.config.state_dir = strdup(world.dir);
	world.server.config.target_dir = malloc(sizeof(world.dir) + 16);
	sprintf(world.server.config.target_dir, "%s.targets", world.dir);
	world.server.config.create = true;
	world.server.config.max_machines = 4;
	world.server.config.retention = malloc(sizeof(world.dir) + 16);
	sprintf(world.server.config.retention, "%s.retention", world.dir);
	snprintf(world.log, sizeof(world.log), "%s/machine-1", world.server.config.retention);
	assert_true(sd_event_new(&world.server.event) >= 0);
	assert_int_equal(io_engine_new(&world.server.io, world.server.event, &io_faults_ops, 64), 0);
	assert_int_equal(pool_new(&world.server.pool, world.server.io, 16 * MIB), 0);
	memset(&world.hello, 0, sizeof(world.hello));
	strcpy(world.hello.uuid, "machine-1");
	strcpy(world.hello.host, "vm");
	for (int d = 0; d < WORLD_DISKS; d++) {
		struct hello_disk *disk = &world.hello.disks[world.hello.disk_count++];

		strcpy(disk->name, world_disk[d]);
		disk->id = (uint32_t)d + 1;
		disk->source_bytes = world_size[d];
	}
	assert_int_equal(util_mkdirs(world.dir), 0);
	assert_int_equal(util_mkdirs(world.server.config.target_dir), 0);
	assert_int_equal(util_mkdirs(world.server.config.retention), 0);
	assert_int_equal(machines_load(&world.server), 0);
	world.machine = machine_get(&world.server, &world.hello, &fault);
	assert_non_null(world.machine);
}

static inline bool settled(void)
{
	const struct machine *m = world.machine;

	return job_quiet(m) && apply_quiet(&m->apply) && undo_quiet(&m->undo) && !io_in_flight(world.server.io);
}

static inline void turn_event(void)
{
	assert_true(sd_event_run(world.server.event, 100000) >= 0);
}

/* Nothing is under way any more. */
static inline void world_settle(void)
{
	for (uint64_t until = util_now_ms() + 10000; !settled() && util_now_ms() < until;)
		turn_event();
	assert_true(settled());
}

static inline void world_disconnect(void)
{
	struct machine *m = world.machine;

	if (!world.connected)
		return;
	world.connected = false;
	m->live = NULL;
	pool_leave(&m->client);
	apply_stop(&m->apply);
	world_settle();
}

/* Whatever the program has to do by itself. False: it cannot, @world.machine->last says why. */
static inline bool world_recover(void)
{
	struct machine *m = world.machine;
	struct fault fault = { 0 };

	world_disconnect();
	if (machine_log_open(m, &fault)) {
		m->last = fault;
		return false;
	}
	for (int tries = 0; job_needed(m); tries++) {
		if (tries > 4)
			return false;
		m->job.retry_ms = 0;
		job_turn(m);
		world_settle();
	}
	return true;
}

static inline void world_unload(void)
{
	world_disconnect();
	if (!world.machine)
		return;
	io_engine_free(world.server.io);
	machines_free(&world.server);
	pool_free(world.server.pool);
	sd_event_unref(world.server.event);
	free(world.server.config.state_dir);
	free(world.server.config.target_dir);
	free(world.server.config.retention);
	world.machine = NULL;
}

static inline void world_connect(void)
{
	struct machine *m = world.machine;
	struct fault fault = { 0 };

	if (world.connected)
		return;
	if (!world_recover())
		fail_msg("cannot recover: %s", m->last.message);
	if (machine_open(m, &world.hello, &fault))
		fail_msg("cannot connect: %s", fault.message);
	m->client.wake = on_nothing;
	pool_join(world.server.pool, &m->client);
	apply_start(&m->apply, m->targets, m->target_count);
	m->live = (struct session *)&world; /* somebody */
	world.connected = true;
	world.faults = world.acks = 0;
}

/* ---- the source --------------------------------------------------------------- */

static inline void world_write(int d, uint32_t offset, uint32_t bytes, int fill)
{
	if (fill < 0)
		memset(world.source.disk[d] + offset, 0, bytes);
	else
		for (uint32_t i = 0; i < bytes; i++)
			world.source.disk[d][offset + i] = (uint8_t)(fill + (int)(i / 512) * 7);
	for (uint32_t g = offset / GRANULE; g <= (offset + bytes - 1) / GRANULE; g++)
		world.dirty[d][g] = true;
}

static inline void world_mutate(void)
{
	for (unsigned n = luck(6); n; n--) {
		int d = (int)luck(WORLD_DISKS);
		uint32_t sectors = world_size[d] / 512, at = luck(sectors), length = 1 + luck(luck(4) ? 20 : 130);

		if (length > sectors - at)
			length = sectors - at;
		world_write(d, at * 512, length * 512, luck(5) ? (int)luck(256) : -1);
	}
}

static inline void feed(struct wire_frame frame, void *payload)
{
	frame.epoch = world.sending;
	frame.attempt = world.attempt;
	frame.seq = world.seq++;
	if (wire_in_digest(frame.type))
		world.digest = wire_digest_add(world.digest, &frame);
	if (frame.type == WIRE_DATA || frame.type == WIRE_ZERO)
		world.bytes += frame.length;
	while (world.machine->apply.head && !world.faults)
		turn_event();
	apply_frame(&world.machine->apply, &frame, payload);
}

static inline void send_range(int d, uint32_t offset, uint32_t bytes)
{
	struct wire_frame frame = { .type = WIRE_DATA, .disk = (uint32_t)d + 1, .offset = offset, .length = bytes };
	const uint8_t *from = world.source.disk[d] + offset;
	bool zero = true;
	void *payload;

	for (uint32_t i = 0; i < bytes && zero; i++)
		zero = !from[i];
	if (zero && luck(3)) {
		frame.type = WIRE_ZERO;
		feed(frame, NULL);
		return;
	}
	while (!(payload = pool_get(&world.machine->client, pool_class_for(bytes))))
		turn_event();
	memcpy(payload, from, bytes);
	frame.payload_bytes = bytes;
	frame.payload_crc = wire_crc(payload, bytes);
	feed(frame, payload);
}

/* BEGIN and what is dirty; @share: how much of it, in percent. */
static inline void send_begin(uint32_t flags, unsigned share)
{
	world.sending = world.epoch + 1;
	world.attempt = util_random();
	world.digest = world.bytes = 0;
	world.seq = 0;
	feed((struct wire_frame){ .type = WIRE_BEGIN, .offset = world.epoch, .flags = flags }, NULL);
	for (int d = 0; d < WORLD_DISKS; d++) {
		uint32_t granules = (world_size[d] + GRANULE - 1) / GRANULE;

		for (uint32_t g = 0; g < granules && !world.faults; g++) {
			uint32_t n = 1, end;

			if (!world.dirty[d][g] || luck(100) >= share)
				continue;
			while (g + n < granules && world.dirty[d][g + n] && luck(4))
				n++;
			for (unsigned turns = luck(3) ? 0 : luck(16); turns; turns--) /* so that there are several batches */
				assert_true(sd_event_run(world.server.event, 0) >= 0);
			end = (g + n) * GRANULE < world_size[d] ? (g + n) * GRANULE : world_size[d];
			send_range(d, g * GRANULE, end - g * GRANULE);
			g += n - 1;
		}
	}
}

static inline void send_tag(void)
{
	struct wire_frame frame = { .type = WIRE_TAG };
	char text[200];
	void *payload;

	frame.payload_bytes = (uint32_t)snprintf(text, sizeof(text),
						 "{\"kind\": \"%s\", \"name\": \"n%llu\", \"time\": \"2026-01-01T00:00:00.000Z\", \"epoch\": %llu}",
						 luck(4) ? "crash" : "app", (unsigned long long)world.sending,
						 (unsigned long long)world.sending);
	while (!(payload = pool_get(&world.machine->client, POOL_SMALL)))
		turn_event();
	memcpy(payload, text, frame.payload_bytes);
	frame.payload_crc = wire_crc(payload, frame.payload_bytes);
	feed(frame, payload);
}

static inline void send_end(bool consistent)
{
	feed((struct wire_frame){ .type = WIRE_END, .offset = world.digest, .length = world.bytes,
				  .flags = consistent ? WIRE_END_CONSISTENT : 0 }, NULL);
	for (uint64_t until = util_now_ms() + 10000; !world.acks && !world.faults && util_now_ms() < until;)
		turn_event();
	assert_true(world.acks || world.faults);
}

/* The acknowledgement has come: the state is another one. */
static inline void world_committed(void)
{
	if (!world.machine->log.chain.count) /* without undo: nothing before it is left */
		while (world.count)
			known_remove(0);
	world.epoch++;
	memset(world.dirty, 0, sizeof(world.dirty));
	known_add(world.machine->state.number, world.epoch, &world.source);
}

/* A whole epoch. Returns whether it was acknowledged. */
static inline bool world_epoch(void)
{
	bool consistent = luck(4) != 0;

	world_connect();
	world.acks = world.faults = 0;
	send_begin(consistent ? 0 : WIRE_EPOCH_FUZZY, 100);
	if (!world.faults && consistent && luck(5))
		send_tag();
	if (!world.faults)
		send_end(consistent);
	if (world.faults || !world.acks) {
		world_disconnect();
		return false;
	}
	world_committed();
	return true;
}

/* ---- judging ------------------------------------------------------------------- */

static inline int open_target(int d)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s.targets/vm/%s.img", world.dir, world_disk[d]);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* Read state @at of the model through a view. 0 and equal; or the error. Never 0 and other content. */
static inline int read_state(size_t at, bool fresh)
{
	struct known *known = &world.known[at];
	static uint8_t *buffer;
	char why[512] = "";
	int r = 0;

	if (!buffer)
		buffer = io_buffer_alloc(256 * 1024);
	if (fresh && known->view) {
		undo_view_close(known->view);
		known->view = NULL;
	}
	if (!known->view)
		r = undo_view_open(&known->view, world.log, known->id, why, sizeof(why));
	for (int d = 0; d < WORLD_DISKS && !r; d++) {
		int fd = open_target(d);

		r = undo_view_read(known->view, (uint32_t)d + 1, fd, 0, world_size[d], buffer);
		close(fd);
		if (!r && memcmp(buffer, known->content.disk[d], world_size[d])) {
			uint32_t i = 0;

			while (buffer[i] == known->content.disk[d][i])
				i++;
			fail_msg("state %llu, disk %d, byte %u: %u, and it was %u", (unsigned long long)known->id, d, i, buffer[i],
				 known->content.disk[d][i]);
		}
	}
	if (r && why[0] && getenv("VERBOSE"))
		print_message("view of %llu: %s\n", (unsigned long long)known->id, why);
	return r;
}

static inline void close_views(void)
{
	for (size_t i = 0; i < world.count; i++)
		if (world.known[i].view) {
			undo_view_close(world.known[i].view);
			world.known[i].view = NULL;
		}
}

/* The disks themselves are in the present state. */
static inline void check_targets(void)
{
	static uint8_t buffer[256 * 1024];

	for (int d = 0; d < WORLD_DISKS; d++) {
		int fd = open_target(d);

		assert_int_equal(pread(fd, buffer, world_size[d], 0), world_size[d]);
		close(fd);
		if (memcmp(buffer, present()->content.disk[d], world_size[d]))
			fail_msg("disk %d is not as in state %llu", d, (unsigned long long)present()->id);
	}
}

/* Every state that the model has can be had, exactly, and no other. @fresh: 1 in so many views is opened anew; 0: none */
static inline void check_all(unsigned fresh)
{
	const struct undo_chain *chain = &world.machine->log.chain;

	assert_int_equal(world.machine->state.number, present()->id);
	assert_int_equal(chain->count, world.count - 1);
	for (size_t i = 0; i + 1 < world.count; i++)
		assert_int_equal(chain->entries[i].base, world.known[i].id);
	for (size_t i = 0; i < world.count; i++)
		assert_int_equal(read_state(i, fresh && !luck(fresh)), 0);
	if (!world.machine->state.between)
		check_targets();
}

/* ---- beginning ------------------------------------------------------------------ */

/* A machine that is replicating, with one point. */
static inline void world_begin(const char *name, unsigned seed)
{
	char command[300];

	memset(&world, 0, sizeof(world));
	world.seed = seed;
	crash.seed = seed;
	/* What the program says of faults that are wanted is not shown. */
	log_init("test", getenv("VERBOSE") ? LOG_LEVEL_ERROR : (enum log_level)0);
	snprintf(world.dir, sizeof(world.dir), "%s/%s.XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", name);
	assert_non_null(mkdtemp(world.dir));
	snprintf(command, sizeof(command), "%s.targets", world.dir);
	content_new(&world.source, NULL);
	world_load();
	world_write(0, 0, 40000 / 512 * 512, 3);
	world_write(1, 0, world_size[1], 9);
	world_connect();
	send_begin(0, 100);
	send_end(true);
	assert_int_equal(world.faults, 0);
	world_committed();
	check_all(0);
}

static inline void world_end(void)
{
	char command[400];

	close_views();
	world_unload();
	while (world.count)
		known_remove(0);
	content_free(&world.source);
	snprintf(command, sizeof(command), "rm -rf %s %s.targets %s.retention", world.dir, world.dir, world.dir);
	assert_int_equal(system(command), 0);
}

/* ---- more that can happen -------------------------------------------------------- */

/* Rolls back to state @at of the model. Returns whether the program says that it is done. */
static inline bool world_rollback(size_t at)
{
	struct machine *m = world.machine;
	struct known *known = &world.known[at];
	struct fault fault = { 0 };

	world_disconnect();
	if (machine_log_open(m, &fault) || machine_rollback(m, known->id, &fault)) {
		m->last = fault;
		return false;
	}
	for (uint64_t until = util_now_ms() + 10000; (!settled() || m->state.undo.rollback_to) && util_now_ms() < until &&
						     !m->job.retry_ms;)
		turn_event();
	assert_true(settled() || m->job.retry_ms);
	if (strcmp(m->job.last, "done"))
		return false;
	known_add(m->state.number, known->epoch, &known->content);
	return true;
}

/* The newest epoch is the present again, so that more can come. */
static inline void world_forward(void)
{
	if (world.machine->state.status != STATE_ROLLED_BACK)
		return;
	for (size_t i = world.count; i--;)
		if (world.known[i].epoch == world.epoch) {
			assert_true(world_rollback(i));
			return;
		}
	fail_msg("the newest epoch is lost");
}

/* Merges the layers of the model's states @first to @last: those in between are gone. 0 or negative errno */
static inline int world_merge(size_t first, size_t last)
{
	struct machine *m = world.machine;
	uint64_t base = world.known[first].id, end = world.known[last].id;
	char name[UNDO_NAME_BYTES], temporary[UNDO_NAME_BYTES + 8], error[256] = "";
	struct undo_entry entry = { 0 };
	int r;

	r = merge_layers(m->log.dir, m->log.uuid, base, end, &entry, error, sizeof(error));
	undo_layer_name(name, base, end);
	snprintf(temporary, sizeof(temporary), "%s.tmp", name);
	if (r)
		return r;
	r = undo_rename(m->log.dir, temporary, name);
	if (!r)
		r = undo_sync_dir(m->log.dir);
	if (!r)
		r = undo_log_merged(&m->log, &entry);
	return r;
}

#endif

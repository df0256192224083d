/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * apply and what it stands on (writer, verify, pool, state), on an image file, without a
 * network: frames in, acknowledgements and faults out, content compared with a model.
 *
 * LINK: userspace/master-target/apply.c userspace/master-target/undo.c userspace/master-target/undo_log.c userspace/master-target/tags.c userspace/master-target/writer.c userspace/master-target/verify.c userspace/master-target/pool.c userspace/master-target/state.c userspace/master-target/fault.c
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

#include "userspace/master-target/apply.h"
#include "util.h"
#include "../random.h"

#define SIZE (4u * 1024u * 1024u)

struct rig {
	sd_event *event;
	struct io_engine *io;
	struct pool *pool;
	struct pool_client client;
	struct state state;
	struct apply apply;
	struct target target;
	char dir[64], path[96];
	uint8_t *model;
	/* what it said */
	unsigned acks, faults, idles, releases, progress;
	bool ready;
	uint32_t ack_flags, progress_seq;
	uint64_t ack_epoch;
	json_t *mismatch;
	struct fault fault;
	/* the stream */
	uint64_t epoch, attempt, digest, bytes;
	uint32_t seq;
};

static void on_ack(void *user, uint32_t flags, uint64_t epoch, uint64_t attempt, uint32_t seq,
		   const json_t *mismatch)
{
	struct rig *rig = user;

	(void)attempt;
	if (flags & WIRE_ACK_PROGRESS) {
		rig->progress++;
		rig->progress_seq = seq;
		return;
	}
	rig->acks++;
	rig->ack_flags = flags;
	rig->ack_epoch = epoch;
	json_decref(rig->mismatch);
	rig->mismatch = json_deep_copy(mismatch);
}

static void on_fault(void *user, const struct fault *fault, uint64_t epoch)
{
	struct rig *rig = user;

	(void)epoch;
	rig->fault = *fault;
	rig->faults++;
}

static void on_ready(void *user) { ((struct rig *)user)->ready = true; }
static void on_idle(void *user) { ((struct rig *)user)->idles++; }
static void on_released(void *user) { ((struct rig *)user)->releases++; }
static void on_wake(void *user) { (void)user; }

static const struct apply_events events = { .ack = on_ack, .fault = on_fault, .ready = on_ready,
					  .idle = on_idle, .released = on_released };

static void start_apply(struct rig *rig)
{
	memset(&rig->apply, 0, sizeof(rig->apply));
	rig->apply.name = "vm";
	rig->apply.events = &events;
	rig->apply.user = rig;
	rig->apply.state = &rig->state;
	rig->apply.io = rig->io;
	rig->apply.pool = rig->pool;
	rig->apply.client = &rig->client;
	assert_int_equal(apply_init(&rig->apply), 0);
	apply_start(&rig->apply, &rig->target, 1);
	rig->ready = true;
}

static int setup(void **user)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	snprintf(rig->dir, sizeof(rig->dir), "/tmp/test-apply.XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	snprintf(rig->path, sizeof(rig->path), "%s/image", rig->dir);
	assert_true(sd_event_new(&rig->event) >= 0);
	assert_int_equal(io_engine_new(&rig->io, rig->event, NULL, 64), 0);
	assert_int_equal(pool_new(&rig->pool, rig->io, 16 * MIB), 0);
	rig->client.wake = on_wake;
	pool_join(rig->pool, &rig->client);
	rig->target.id = 7;
	rig->target.fd = open(rig->path, O_RDWR | O_CREAT, 0600);
	rig->target.align = 512;
	rig->target.source_bytes = rig->target.bytes = SIZE;
	snprintf(rig->target.name, sizeof(rig->target.name), "root");
	assert_int_equal(ftruncate(rig->target.fd, SIZE), 0);
	rig->model = calloc(1, SIZE);
	state_init(&rig->state, rig->dir, "machine-1");
	assert_non_null(state_disk_add(&rig->state, "root"));
	rig->state.disks[0].identity = json_object();
	start_apply(rig);
	*user = rig;
	return 0;
}

static void run_until_quiet(struct rig *rig)
{
	uint64_t until = util_now_ms() + 10000;

	while (io_in_flight(rig->io) && util_now_ms() < until)
		assert_true(sd_event_run(rig->event, 100000) >= 0);
	while (sd_event_run(rig->event, 0) > 0)
		;
}

static int teardown(void **user)
{
	struct rig *rig = *user;
	char command[160];

	apply_stop(&rig->apply);
	run_until_quiet(rig);
	assert_true(apply_quiet(&rig->apply));
	assert_int_equal(pool_unused(rig->pool, POOL_SMALL), pool_slots(rig->pool, POOL_SMALL));
	assert_int_equal(pool_unused(rig->pool, POOL_LARGE), pool_slots(rig->pool, POOL_LARGE));
	assert_int_equal(pool_unused(rig->pool, POOL_VERIFY), POOL_VERIFY_BUFFERS);
	io_engine_free(rig->io);
	apply_destroy(&rig->apply);
	pool_free(rig->pool);
	state_clear(&rig->state);
	sd_event_unref(rig->event);
	close(rig->target.fd);
	json_decref(rig->mismatch);
	free(rig->model);
	snprintf(command, sizeof(command), "rm -rf %s", rig->dir);
	assert_int_equal(system(command), 0);
	free(rig);
	return 0;
}

/* Hand over a frame as a connection would: only when it reads. */
static void feed(struct rig *rig, const struct wire_frame *frame, void *payload)
{
	uint64_t until = util_now_ms() + 10000;

	while (!rig->ready && !rig->faults && util_now_ms() < until)
		assert_true(sd_event_run(rig->event, 100000) >= 0);
	rig->ready = true;
	if (!apply_frame(&rig->apply, frame, payload))
		rig->ready = false;
}

static void *buffer(struct rig *rig, size_t bytes)
{
	void *memory;

	while (!(memory = pool_get(&rig->client, pool_class_for(bytes))))
		assert_true(sd_event_run(rig->event, 100000) >= 0);
	return memory;
}

static void send(struct rig *rig, struct wire_frame frame, void *payload)
{
	frame.epoch = rig->epoch;
	frame.attempt = rig->attempt;
	frame.seq = rig->seq++;
	if (wire_in_digest(frame.type))
		rig->digest = wire_digest_add(rig->digest, &frame);
	if (frame.type == WIRE_DATA || frame.type == WIRE_ZERO)
		rig->bytes += frame.length;
	feed(rig, &frame, payload);
}

static void begin(struct rig *rig, uint64_t epoch, uint64_t previous, uint32_t flags)
{
	rig->epoch = epoch;
	rig->attempt = util_random();
	rig->digest = rig->bytes = 0;
	rig->seq = 0;
	send(rig, (struct wire_frame){ .type = WIRE_BEGIN, .offset = previous, .flags = flags }, NULL);
}

static void data(struct rig *rig, uint64_t offset, uint32_t bytes, int fill)
{
	struct wire_frame frame = { .type = WIRE_DATA, .disk = 7, .offset = offset, .length = bytes,
				    .payload_bytes = bytes };
	void *payload = buffer(rig, bytes);

	memset(payload, fill, bytes);
	frame.payload_crc = wire_crc(payload, bytes);
	if (offset + bytes <= SIZE)
		memset(rig->model + offset, fill, bytes);
	send(rig, frame, payload);
}

static void zero(struct rig *rig, uint64_t offset, uint64_t bytes)
{
	memset(rig->model + offset, 0, bytes);
	send(rig, (struct wire_frame){ .type = WIRE_ZERO, .disk = 7, .offset = offset, .length = bytes }, NULL);
}

static void verify_range(struct rig *rig, uint64_t offset, uint64_t bytes, bool spoil)
{
	struct wire_frame frame = { .type = WIRE_VERIFY, .disk = 7, .offset = offset, .length = bytes,
				    .payload_bytes = 16 };
	uint8_t *payload = buffer(rig, 16);

	wire_hash(rig->model + offset, bytes, payload);
	payload[3] ^= (uint8_t)spoil;
	frame.payload_crc = wire_crc(payload, 16);
	send(rig, frame, payload);
}

static void end(struct rig *rig)
{
	send(rig, (struct wire_frame){ .type = WIRE_END, .offset = rig->digest, .length = rig->bytes }, NULL);
	run_until_quiet(rig);
}

/* TAG with @text as its payload; NULL: a good one of @kind. */
static void tag(struct rig *rig, const char *kind, const char *text)
{
	struct wire_frame frame = { .type = WIRE_TAG };
	char good[256];
	void *payload;

	snprintf(good, sizeof(good),
		 "{\"kind\": \"%s\", \"name\": \"n%llu\", \"time\": \"2024-01-01T00:00:00.000Z\", "
		 "\"epoch\": %llu, \"scripts\": [{\"path\": \"/s\", \"output\": \"long\"}]}",
		 kind, (unsigned long long)rig->epoch, (unsigned long long)rig->epoch);
	if (!text)
		text = good;
	payload = buffer(rig, strlen(text));
	memcpy(payload, text, strlen(text));
	frame.payload_bytes = (uint32_t)strlen(text);
	frame.payload_crc = wire_crc(text, strlen(text));
	send(rig, frame, payload);
}

static void end_as(struct rig *rig, uint32_t flags)
{
	send(rig,
	     (struct wire_frame){ .type = WIRE_END, .offset = rig->digest, .length = rig->bytes, .flags = flags },
	     NULL);
	run_until_quiet(rig);
}

static void assert_content(struct rig *rig)
{
	uint8_t *content = malloc(SIZE);

	assert_int_equal(pread(rig->target.fd, content, SIZE, 0), SIZE);
	assert_memory_equal(content, rig->model, SIZE);
	free(content);
}

static void assert_applied(struct rig *rig, uint64_t epoch)
{
	char error[256];
	struct state state;

	if (rig->faults)
		print_message("fault: %s\n", rig->fault.message);
	assert_int_equal(rig->faults, 0);
	assert_int_equal(rig->ack_epoch, epoch);
	assert_true(rig->ack_flags & WIRE_ACK_APPLIED);
	assert_content(rig);
	assert_int_equal(state_load(&state, rig->dir, "machine-1", error, sizeof(error)), 0);
	assert_int_equal(state.last_applied, epoch);
	assert_int_equal(state.partial.seq, 0);
	state_clear(&state);
}

static void assert_fault(struct rig *rig, const char *code, const char *text)
{
	run_until_quiet(rig);
	assert_int_equal(rig->faults, 1);
	assert_string_equal(rig->fault.code, code);
	assert_non_null(strstr(rig->fault.message, text));
	assert_true(rig->fault.remedy[0]);
	assert_int_equal(rig->acks, 0);
	assert_int_equal(rig->idles, 1);
}

static void test_applies(void **user)
{
	struct rig *rig = *user;

	begin(rig, 3, 0, 0);
	data(rig, 4096, 8192, 0x11);
	data(rig, 65536, 1024 * 1024, 0x22);
	zero(rig, 69632, 4096);
	end(rig);
	assert_applied(rig, 3);
	assert_int_equal(rig->state.status, STATE_REPLICATING);
	begin(rig, 4, 3, WIRE_EPOCH_FUZZY);
	end(rig);
	assert_applied(rig, 4);
}

/* Overlapping frames of every size and alignment: the content is as if taken one by one. */
static void overlap(struct rig *rig, uint32_t align)
{
	unsigned seed = random_seed();

	print_message("seed %u\n", seed);
	srandom(seed);
	rig->target.align = align;
	for (uint64_t epoch = 1; epoch <= 6; epoch++) {
		begin(rig, epoch, epoch - 1, 0);
		for (int i = 0; i < 120; i++) {
			uint64_t offset = (uint64_t)(random() % (SIZE / 512)) * 512;
			uint32_t bytes = (uint32_t)(random() % (i % 7 ? 24 : 2048) + 1) * 512;

			if (random() % 2)
				offset %= 64 * 1024; /* most of them in one place */
			if (offset + bytes > SIZE)
				bytes = (uint32_t)(SIZE - offset);
			if (random() % 4)
				data(rig, offset, bytes, (int)(random() % 255) + 1);
			else
				zero(rig, offset, bytes);
			if (i % 50 == 49) { /* a checkpoint in between */
				rig->apply.checkpoint_ms = 0;
				apply_tick(&rig->apply);
			}
		}
		end(rig);
		assert_applied(rig, epoch);
	}
	assert_true(rig->progress > 0);
}

static void test_overlap_512(void **user) { overlap(*user, 512); }
static void test_overlap_4096(void **user) { overlap(*user, 4096); }

static void checkpoint(struct rig *rig)
{
	unsigned before;

	run_until_quiet(rig); /* frames that wait are not in it */
	before = rig->progress;
	rig->apply.checkpoint_ms = 0;
	apply_tick(&rig->apply);
	run_until_quiet(rig);
	assert_int_equal(rig->progress, before + 1);
	assert_int_equal(rig->progress_seq, rig->seq);
}

/* What a crash leaves is the image and state.json. */
static void restart(struct rig *rig)
{
	char error[256];

	apply_stop(&rig->apply);
	run_until_quiet(rig);
	assert_int_equal(rig->idles, 1);
	rig->idles = 0;
	apply_destroy(&rig->apply);
	state_clear(&rig->state);
	assert_int_equal(state_load(&rig->state, rig->dir, "machine-1", error, sizeof(error)), 0);
	start_apply(rig);
}

static void test_resumes(void **user)
{
	struct rig *rig = *user;
	uint64_t digest, bytes;
	uint32_t seq;

	begin(rig, 1, 0, WIRE_EPOCH_INITIAL);
	data(rig, 0, 65536, 1);
	zero(rig, 32768, 4096);
	checkpoint(rig);
	digest = rig->digest, bytes = rig->bytes, seq = rig->seq;
	data(rig, 0, 4096, 9); /* after the position: comes again */
	restart(rig);
	assert_int_equal(rig->state.partial.seq, seq);
	assert_int_equal(rig->state.partial.attempt, rig->attempt);
	rig->digest = digest, rig->bytes = bytes, rig->seq = seq;
	data(rig, 0, 4096, 9);
	data(rig, 8192, 512, 3);
	end(rig);
	assert_applied(rig, 1);
	assert_int_equal(rig->state.status, STATE_INITIAL);
}

/* What the state file says, not what is in memory. */
static void assert_points(struct rig *rig, const char *consistency, uint64_t epoch, const char *crash,
			  const char *app, size_t listed)
{
	char error[256];
	struct state state;
	const struct tags *tags = &state.tags;

	assert_int_equal(state_load(&state, rig->dir, "machine-1", error, sizeof(error)), 0);
	assert_string_equal(tags_consistency(tags, state.last_applied), consistency);
	assert_int_equal(tags->consistent_epoch, epoch);
	assert_int_equal(tags->crash != NULL, crash != NULL);
	if (crash)
		assert_string_equal(json_string_value(json_object_get(tags->crash, "name")), crash);
	assert_int_equal(tags->app != NULL, app != NULL);
	if (app)
		assert_string_equal(json_string_value(json_object_get(tags->app, "name")), app);
	assert_int_equal(json_array_size(tags->list), listed);
	state_clear(&state);
}

static void test_tags_are_recorded_with_the_epoch(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, WIRE_EPOCH_INITIAL | WIRE_EPOCH_FUZZY);
	data(rig, 0, 4096, 1);
	end(rig);
	assert_points(rig, "syncing", 0, NULL, NULL, 0);
	begin(rig, 2, 1, WIRE_EPOCH_FUZZY);
	end(rig);
	assert_points(rig, "syncing", 0, NULL, NULL, 0);
	begin(rig, 3, 2, 0);
	data(rig, 0, 4096, 3);
	tag(rig, "crash", NULL);
	end_as(rig, WIRE_END_CONSISTENT);
	assert_applied(rig, 3);
	assert_points(rig, "consistent", 3, "n3", NULL, 1);
	begin(rig, 4, 3, 0);
	tag(rig, "app", NULL);
	end_as(rig, WIRE_END_CONSISTENT);
	assert_points(rig, "consistent", 4, "n3", "n4", 2);
	begin(rig, 5, 4, 0); /* meant to be consistent, and was not in the end */
	data(rig, 0, 4096, 4);
	end(rig);
	assert_points(rig, "not-consistent", 4, "n3", "n4", 2);
	begin(rig, 6, 5, 0); /* without a tag it is consistent all the same */
	end_as(rig, WIRE_END_CONSISTENT);
	assert_points(rig, "consistent", 6, "n3", "n4", 2);
	begin(rig, 7, 6, WIRE_EPOCH_INITIAL); /* a resync */
	end(rig);
	assert_points(rig, "syncing", 6, "n3", "n4", 2);
	begin(rig, 8, 7, 0);
	tag(rig, "crash", NULL);
	end_as(rig, WIRE_END_CONSISTENT);
	assert_points(rig, "consistent", 8, "n8", "n4", 3);
	begin(rig, 9, 0, WIRE_EPOCH_INITIAL); /* a new chain: nothing of before holds */
	assert_points(rig, "syncing", 0, NULL, NULL, 0);
	end(rig);
	assert_int_equal(rig->faults, 0);
}

static void test_tag_survives_a_crash_before_end(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	data(rig, 0, 65536, 1);
	tag(rig, "app", NULL);
	checkpoint(rig);
	restart(rig);
	end_as(rig, WIRE_END_CONSISTENT);
	assert_applied(rig, 1);
	assert_points(rig, "consistent", 1, NULL, "n1", 1);
}

/* What the state file says of the disks, and what is in memory. */
static void assert_between(struct rig *rig, bool between)
{
	char error[256];
	struct state state;

	assert_int_equal(state_load(&state, rig->dir, "machine-1", error, sizeof(error)), 0);
	assert_int_equal(state.between, between);
	assert_int_equal(rig->state.between, between);
	state_clear(&state);
}

static void test_dropped_epoch_leaves_a_part(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	data(rig, 0, 4096, 1);
	end_as(rig, WIRE_END_CONSISTENT);
	assert_between(rig, false);
	begin(rig, 2, 1, 0);
	run_until_quiet(rig);
	assert_between(rig, false); /* nothing is written yet */
	data(rig, 4096, 4096, 2);
	run_until_quiet(rig);
	assert_between(rig, true);
	send(rig, (struct wire_frame){ .type = WIRE_ABORT }, NULL);
	run_until_quiet(rig);
	assert_between(rig, true);
	restart(rig);
	assert_between(rig, true);
	begin(rig, 3, 1, 0);
	run_until_quiet(rig);
	assert_between(rig, true);
	data(rig, 4096, 4096, 3);
	end_as(rig, WIRE_END_CONSISTENT);
	assert_applied(rig, 3);
	assert_between(rig, false);
}

static void test_tags_are_bounded(void **user)
{
	struct rig *rig = *user;
	json_t *first;

	for (uint64_t epoch = 1; epoch <= TAGS_MAX + 3; epoch++) {
		begin(rig, epoch, epoch - 1, 0);
		tag(rig, "crash", NULL);
		end_as(rig, WIRE_END_CONSISTENT);
	}
	assert_points(rig, "consistent", TAGS_MAX + 3, "n67", NULL, TAGS_MAX);
	first = json_array_get(rig->state.tags.list, 0);
	assert_int_equal(json_integer_value(json_object_get(first, "epoch")), 4);
	/* Output of scripts only where it is the last. */
	first = json_array_get(json_object_get(first, "scripts"), 0);
	assert_null(json_object_get(first, "output"));
	first = json_array_get(json_object_get(rig->state.tags.crash, "scripts"), 0);
	assert_non_null(json_object_get(first, "output"));
}

static void test_tag_without_claim(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	tag(rig, "crash", NULL);
	end(rig);
	assert_fault(rig, "bad-frame", "does not end as consistent");
	assert_null(rig->state.tags.crash);
}

static void test_fuzzy_cannot_claim(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, WIRE_EPOCH_FUZZY);
	end_as(rig, WIRE_END_CONSISTENT);
	assert_fault(rig, "bad-frame", "began as fuzzy");
	assert_int_equal(rig->state.last_applied, 0);
}

static void test_tag_in_fuzzy(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, WIRE_EPOCH_FUZZY);
	tag(rig, "crash", NULL);
	assert_fault(rig, "bad-frame", "TAG in a fuzzy epoch");
}

static void test_second_tag(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	tag(rig, "crash", NULL);
	tag(rig, "crash", NULL);
	assert_fault(rig, "bad-frame", "a second TAG");
}

static void test_data_after_tag(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	tag(rig, "crash", NULL);
	data(rig, 0, 4096, 1);
	assert_fault(rig, "bad-frame", "DATA after TAG");
}

static void test_tag_of_another_epoch(void **user)
{
	struct rig *rig = *user;

	begin(rig, 5, 0, 0);
	tag(rig, "crash", "{\"kind\":\"app\",\"name\":\"x\",\"time\":\"t\",\"epoch\":4}");
	assert_fault(rig, "bad-frame", "names another epoch");
}

static void test_tag_garbage(void **user)
{
	struct rig *rig = *user;

	begin(rig, 5, 0, 0);
	tag(rig, "crash", "{\"kind\":");
	assert_fault(rig, "bad-frame", "JSON cannot be read");
}

static void test_begin_ends_position(void **user)
{
	struct rig *rig = *user;
	uint32_t seq;

	begin(rig, 1, 0, 0);
	data(rig, 0, 65536, 1);
	checkpoint(rig);
	seq = rig->seq;
	begin(rig, 1, 0, 0); /* another attempt */
	data(rig, 0, 4096, 2);
	run_until_quiet(rig);
	restart(rig);
	assert_int_equal(rig->state.partial.seq, 0);
	rig->seq = seq;
	data(rig, 0, 4096, 9);
	assert_fault(rig, "bad-frame", "no such epoch was begun");
}

static void test_again_is_harmless(void **user)
{
	struct rig *rig = *user;

	begin(rig, 5, 0, 0);
	data(rig, 0, 4096, 5);
	end(rig);
	assert_applied(rig, 5);
	begin(rig, 5, 0, 0); /* what it carries now is older than what may follow: not applied */
	data(rig, 0, 4096, 6);
	memset(rig->model, 5, 4096);
	end(rig);
	assert_int_equal(rig->acks, 2);
	assert_applied(rig, 5);
}

static void test_skipped_epoch(void **user)
{
	struct rig *rig = *user;

	begin(rig, 9, 8, 0);
	assert_fault(rig, "resync-needed", "follows epoch 8");
	assert_true(rig->fault.fatal);
}

static void test_chain_begins_anew(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	end(rig);
	begin(rig, 2, 0, WIRE_EPOCH_INITIAL);
	end(rig);
	assert_applied(rig, 2);
	assert_int_equal(rig->state.status, STATE_INITIAL);
}

static void test_wrong_digest(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	data(rig, 0, 4096, 1);
	checkpoint(rig);
	rig->digest ^= 1;
	end(rig);
	assert_fault(rig, "bad-frame", "the digest is");
	restart(rig);
	assert_int_equal(rig->state.last_applied, 0);
	assert_int_equal(rig->state.partial.seq, 0); /* or it would fail the same way for ever */
}

static void test_wrong_bytes(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	data(rig, 0, 4096, 1);
	rig->bytes++;
	end(rig);
	assert_fault(rig, "bad-frame", "number of bytes");
}

static void test_wrong_seq(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	rig->seq++;
	data(rig, 0, 4096, 1);
	assert_fault(rig, "bad-frame", "frame 1 was expected");
}

static void test_beyond_the_end(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	data(rig, SIZE - 4096, 8192, 1);
	assert_fault(rig, "bad-frame", "does not lie on the disk");
}

static void test_unknown_disk(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	send(rig, (struct wire_frame){ .type = WIRE_ZERO, .disk = 8, .length = 4096 }, NULL);
	assert_fault(rig, "bad-frame", "disk number 8");
}

static void test_data_after_verify(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	verify_range(rig, 0, 4096, false);
	data(rig, 0, 4096, 1);
	assert_fault(rig, "bad-frame", "after VERIFY");
}

static void test_final(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, WIRE_EPOCH_FINAL);
	data(rig, 8192, 12288, 0x77);
	verify_range(rig, 0, 3 * MIB + 512, false);
	checkpoint(rig); /* what is verified so far outlives a restart */
	uint64_t digest = rig->digest, bytes = rig->bytes;
	uint32_t seq = rig->seq;

	restart(rig);
	rig->digest = digest, rig->bytes = bytes, rig->seq = seq;
	verify_range(rig, 3 * MIB + 512, SIZE - 3 * MIB - 512, false);
	end(rig);
	assert_applied(rig, 1);
	assert_true(rig->ack_flags & WIRE_ACK_RELEASED);
	assert_int_equal(rig->releases, 1);
	assert_int_equal(rig->state.status, STATE_RELEASED);
	begin(rig, 1, 0, WIRE_EPOCH_FINAL); /* the acknowledgement was lost */
	end(rig);
	assert_int_equal(rig->acks, 2);
	assert_true(rig->ack_flags & WIRE_ACK_RELEASED);
	rig->acks = 0;
	begin(rig, 2, 1, 0);
	assert_fault(rig, "released", "were released with epoch 1");
}

static void test_final_mismatch(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, WIRE_EPOCH_FINAL);
	verify_range(rig, 0, MIB, false);
	verify_range(rig, MIB, MIB, true);
	verify_range(rig, 2 * MIB, MIB, true);
	verify_range(rig, 3 * MIB, MIB, false);
	end(rig);
	assert_applied(rig, 1);
	assert_false(rig->ack_flags & WIRE_ACK_RELEASED);
	assert_int_equal(json_array_size(rig->mismatch), 1); /* adjacent ones are one */
	assert_int_equal(json_integer_value(json_object_get(json_array_get(rig->mismatch, 0), "offset")), MIB);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(rig->mismatch, 0), "length")),
			 2 * MIB);
	restart(rig);
	begin(rig, 1, 0, WIRE_EPOCH_FINAL);
	end(rig);
	assert_int_equal(json_array_size(rig->mismatch), 1); /* said again when asked again */
	begin(rig, 2, 1, 0);
	end(rig);
	assert_applied(rig, 2); /* not released: it goes on */
}

static void test_final_not_whole(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, WIRE_EPOCH_FINAL);
	verify_range(rig, 0, SIZE - 512, false);
	end(rig);
	assert_fault(rig, "bad-frame", "does not verify all of it");
	assert_int_equal(rig->releases, 0);
}

static void test_write_error(void **user)
{
	struct rig *rig = *user;
	int good = rig->target.fd;

	rig->target.fd = open(rig->path, O_RDONLY);
	begin(rig, 1, 0, 0);
	data(rig, 0, 4096, 1);
	assert_fault(rig, "io", "disk vm/root: cannot write 4096 bytes at 0");
	assert_false(rig->fault.fatal);
	close(rig->target.fd);
	rig->target.fd = good;
}

static void test_no_space(void **user)
{
	struct rig *rig = *user;
	int good = rig->target.fd;

	rig->target.fd = open("/dev/full", O_RDWR);
	begin(rig, 1, 0, 0);
	for (int i = 0; i < 40 && !rig->faults; i++)
		data(rig, (uint64_t)i * 65536, 65536, 1);
	assert_fault(rig, "no-space", "No space left");
	close(rig->target.fd);
	rig->target.fd = good;
}

static void test_state_cannot_be_saved(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	data(rig, 0, 4096, 1);
	run_until_quiet(rig);
	snprintf(rig->state.dir, sizeof(rig->state.dir), "/dev/null/nowhere");
	end(rig);
	assert_fault(rig, "io", "cannot save its state");
	assert_int_equal(rig->state.last_applied, 0);
}

static void test_stop_in_the_middle(void **user)
{
	struct rig *rig = *user;

	begin(rig, 1, 0, 0);
	for (int i = 0; i < 3; i++)
		data(rig, (uint64_t)i * MIB, MIB, 1);
	apply_stop(&rig->apply);
	run_until_quiet(rig);
	assert_int_equal(rig->idles, 1);
	assert_true(apply_quiet(&rig->apply));
	assert_int_equal(rig->acks, 0);
}

static void test_state_damaged(void **user)
{
	struct rig *rig = *user;
	static const char *const bad[] = { "", "{", "[]", "{\"format\": 2}",
					   "{\"format\":1,\"machine\":\"other\",\"host\":\"h\",\"status\":"
					   "\"replicating\",\"last_applied\":1}",
					   "{\"format\":1,\"machine\":\"machine-1\",\"host\":\"h\",\"status\":"
					   "\"sleeping\",\"last_applied\":1}",
					   "{\"format\":1,\"machine\":\"machine-1\",\"host\":\"h\",\"status\":"
					   "\"replicating\",\"last_applied\":1,\"disks\":[{\"name\":\"../x\"}]}" };
	char path[128], error[256];

	assert_int_equal(state_save(&rig->state), 0);
	snprintf(path, sizeof(path), "%s/machine-1/state.json", rig->dir);
	for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
		struct state state;

		assert_int_equal(util_write_file(path, bad[i], strlen(bad[i])), 0);
		assert_int_equal(state_load(&state, rig->dir, "machine-1", error, sizeof(error)), -EBADMSG);
		assert_non_null(strstr(error, "state.json"));
		state_clear(&state);
	}
}

static void test_mismatch_bound(void **user)
{
	json_t *list = NULL;

	(void)user;
	for (uint64_t i = 0; i < 3000; i++)
		state_mismatch_add(&list, 1, i * 8192, 4096);
	assert_int_equal(json_array_size(list), STATE_MISMATCH_MAX);
	json_t *last = json_array_get(list, STATE_MISMATCH_MAX - 1);

	assert_int_equal(json_integer_value(json_object_get(last, "offset")) +
				 json_integer_value(json_object_get(last, "length")),
			 2999 * 8192 + 4096);
	json_decref(list);
}

static unsigned woken;
static void count_wake(void *user) { (void)user; woken++; }

static void test_pool_shares(void **user)
{
	struct rig *rig = *user;
	struct pool_client other = { .wake = count_wake };
	void *held[512];
	unsigned n = 0, m = 0;

	pool_join(rig->pool, &other);
	while ((held[n] = pool_get(&rig->client, POOL_LARGE)))
		n++;
	assert_int_equal(n, pool_slots(rig->pool, POOL_LARGE) / 2);
	while ((held[n + m] = pool_get(&other, POOL_LARGE)))
		m++;
	assert_int_equal(n + m, pool_slots(rig->pool, POOL_LARGE) / 2 * 2);
	woken = 0;
	pool_put(rig->pool, &rig->client, held[0]); /* the other one has its share */
	assert_int_equal(woken, 0);
	pool_put(rig->pool, &other, held[n]);
	assert_int_equal(woken, 1);
	for (unsigned i = 1; i < n + m; i++)
		if (i != n)
			pool_put(rig->pool, i < n ? &rig->client : &other, held[i]);
	pool_leave(&other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_applies),
		TEST(test_overlap_512),
		TEST(test_overlap_4096),
		TEST(test_resumes),
		TEST(test_tags_are_recorded_with_the_epoch),
		TEST(test_tag_survives_a_crash_before_end),
		TEST(test_dropped_epoch_leaves_a_part),
		TEST(test_tags_are_bounded),
		TEST(test_tag_without_claim),
		TEST(test_fuzzy_cannot_claim),
		TEST(test_tag_in_fuzzy),
		TEST(test_second_tag),
		TEST(test_data_after_tag),
		TEST(test_tag_of_another_epoch),
		TEST(test_tag_garbage),
		TEST(test_begin_ends_position),
		TEST(test_again_is_harmless),
		TEST(test_skipped_epoch),
		TEST(test_chain_begins_anew),
		TEST(test_wrong_digest),
		TEST(test_wrong_bytes),
		TEST(test_wrong_seq),
		TEST(test_beyond_the_end),
		TEST(test_unknown_disk),
		TEST(test_data_after_verify),
		TEST(test_final),
		TEST(test_final_mismatch),
		TEST(test_final_not_whole),
		TEST(test_write_error),
		TEST(test_no_space),
		TEST(test_state_cannot_be_saved),
		TEST(test_stop_in_the_middle),
		TEST(test_state_damaged),
		TEST(test_mismatch_bound),
		TEST(test_pool_shares),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

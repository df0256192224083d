// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * undolog - an undo log out of images, and what the master target says of it, for tests of export, mount and verify.
 *
 *   undolog build DIRECTORY NAME:IMAGE1:IMAGE2:...:IMAGEN...
 *	disk 0, 1, ...: as it was in state 1, 2, ... N. The last one is the target; what the others have and the next one
 *	has not goes into layers
 *   undolog churn DIRECTORY TARGET SEED
 *	overwrite random blocks of disk 0, as epochs after state N, until a signal comes; the last one is left open
 *   undolog flip DIRECTORY BASE OFFSET
 *	flip a bit of the content that disk 0 has at OFFSET, or next behind it, in the layer from state BASE
 *   undolog serve DIRECTORY SOCKET HOST NAME:TARGET...
 *	be the master target: answer "point"; keep the verdict in DIRECTORY.verdict
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "../../unit/undo_build.h"
#include "control.h"
#include "log.h"
#include "undo_layer.h"
#include "undo_tail.h"
#include "util.h"

#define DISKS_MAX 8u
#define STATES_MAX 64u
#define RECORDS_MAX 100000u
#define CHURN_BYTES 4096u
#define CHURN_PAUSE_NS 5000000 /* after 16 blocks */

static const uint8_t log_id[UNDO_UUID_BYTES] = "an undo log, yes";

struct disk {
	char *name, *images[STATES_MAX];
	size_t count;
	uint64_t bytes;
};

static struct disk disks[DISKS_MAX];
static size_t disk_count;

static void parse_disk(char *text)
{
	struct disk *disk = &disks[disk_count++];
	char *word;
	struct stat st;

	if (disk_count > DISKS_MAX || !(disk->name = strsep(&text, ":")))
		errx(2, "too many disks, or one without a name");
	while ((word = strsep(&text, ":")))
		if (disk->count < STATES_MAX)
			disk->images[disk->count++] = word;
	if (!disk->count || stat(disk->images[disk->count - 1], &st) < 0)
		err(2, "disk %s: no image", disk->name);
	disk->bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode)) {
		CLEANUP_FD int fd = open(disk->images[disk->count - 1], O_RDONLY | O_CLOEXEC);

		if (fd < 0 || util_device_bytes(fd, &disk->bytes))
			err(2, "%s", disk->images[disk->count - 1]);
	}
}

static json_t *disks_json(void)
{
	json_t *list = json_array();

	for (size_t i = 0; i < disk_count; i++)
		json_array_append_new(list, json_pack("{s:i, s:s, s:s, s:I}", "id", (int)i, "name", disks[i].name, "path",
						      disks[i].images[disks[i].count - 1], "size_bytes",
						      (json_int_t)disks[i].bytes));
	return list;
}

static json_t *meta(uint64_t state)
{
	char time[40], name[32];

	snprintf(time, sizeof(time), "2026-11-30T03:%02u:00Z", (unsigned)state);
	snprintf(name, sizeof(name), "point-%" PRIu64, state);
	return json_pack("{s:I, s:b, s:s, s:s, s:s, s:I, s:I, s:o}", "epoch", (json_int_t)state, "consistent", 1, "kind", "crash",
			 "name", name, "time", time, "time_ms", (json_int_t)(1796007600000 + (json_int_t)state * 60000), "applied_ms",
			 (json_int_t)(1796007600000 + (json_int_t)state * 60000), "disks", disks_json());
}

static int open_directory(const char *path)
{
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		err(2, "%s", path);
	return dir;
}

static void publish(int dir, uint64_t committed, uint64_t open, uint64_t batches)
{
	static struct undo_tail_page *page;
	struct undo_tail tail = { .committed = committed, .open = open, .batches = batches };

	memcpy(tail.log, log_id, sizeof(tail.log));
	if (!page && undo_tail_map(&page, dir, true))
		errx(2, "tail: cannot be made");
	undo_tail_publish(page, &tail);
}

/* ---- build --------------------------------------------------------------- */

static void read_some(int fd, const char *path, void *out, size_t bytes, uint64_t offset)
{
	if (pread(fd, out, bytes, (off_t)offset) != (ssize_t)bytes)
		err(2, "%s: is shorter than the target, or cannot be read", path);
}

static bool is_zero(const uint8_t *data, size_t bytes)
{
	return !*data && !memcmp(data, data + 1, bytes - 1);
}

/* The block behind the last record, if that goes on with it; else a record of its own. */
static size_t note(struct build_record *records, size_t count, const struct build_record *block)
{
	struct build_record *last = count ? &records[count - 1] : NULL;
	uint8_t *content;

	if (!last || last->disk != block->disk || last->offset + last->length != block->offset || !last->content != !block->content ||
	    last->length + block->length > UNDO_RECORD_MAX) {
		if (count == RECORDS_MAX)
			errx(2, "the images differ in too much");
		last = &records[count++];
		*last = (struct build_record){ .offset = block->offset, .disk = block->disk };
	}
	if (block->content) {
		content = realloc((void *)last->content, last->length + block->length);
		if (!content)
			errx(2, "out of memory");
		memcpy(content + last->length, block->content, block->length);
		last->content = content;
	}
	last->length += block->length;
	return count;
}

/* What the image of state @base has and the next one has not, by the block. */
static size_t differences(unsigned number, uint64_t base, struct build_record *records, size_t count)
{
	const struct disk *disk = &disks[number];
	const char *old_path = disk->images[base - 1], *new_path = disk->images[base];
	CLEANUP_FD int old = open(old_path, O_RDONLY | O_CLOEXEC), new = open(new_path, O_RDONLY | O_CLOEXEC);
	static uint8_t a[1 << 20], b[1 << 20];

	for (uint64_t at = 0; at < disk->bytes; at += sizeof(a)) {
		size_t some = disk->bytes - at < sizeof(a) ? (size_t)(disk->bytes - at) : sizeof(a);

		read_some(old, old_path, a, some, at);
		read_some(new, new_path, b, some, at);
		for (size_t i = 0; i < some; i += UNDO_BLOCK) {
			struct build_record block = { .offset = at + i, .content = a + i, .disk = number,
						      .length = some - i < UNDO_BLOCK ? (uint32_t)(some - i) : UNDO_BLOCK };

			if (!memcmp(a + i, b + i, block.length))
				continue;
			if (is_zero(a + i, block.length))
				block.content = NULL;
			count = note(records, count, &block);
		}
	}
	return count;
}

static void layer(int dir, uint64_t base)
{
	struct build_record *records = calloc(RECORDS_MAX, sizeof(*records));
	CLEANUP_JSON json_t *json = meta(base);
	char *text = json_dumps(json, JSON_COMPACT);
	size_t count = 0;

	if (!records || !text)
		errx(2, "out of memory");
	for (unsigned i = 0; i < disk_count; i++)
		count = differences(i, base, records, count);
	build_layer(dir, log_id, base, base + 1, text, records, count, 0, true);
	for (size_t i = 0; i < count; i++)
		free((void *)records[i].content);
	free(text);
	free(records);
}

static void build(const char *path)
{
	int dir;

	if (util_mkdirs(path))
		errx(2, "%s: cannot be made", path);
	dir = open_directory(path);
	for (uint64_t base = 1; base < disks[0].count; base++)
		layer(dir, base);
	publish(dir, disks[0].count, 0, 0);
}

/* ---- churn --------------------------------------------------------------- */

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

/* The last state of all layers. */
static uint64_t committed(const char *path)
{
	uint64_t base, last, newest = 1;
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (undo_layer_parse(entry->d_name, &base, &last) && last > newest)
			newest = last;
	if (dir)
		closedir(dir);
	return newest;
}

struct churn {
	int dir, target;
	uint64_t state, blocks, left;
	uint8_t *touched;
	struct build build;
};

static void begin_epoch(struct churn *churn)
{
	memset(churn->touched, 0, churn->blocks);
	churn->left = churn->blocks / 4;
	build_begin(&churn->build, churn->dir, log_id, churn->state, churn->state + 1, "{\"epoch\": 99}");
	publish(churn->dir, churn->state, churn->state + 1, 0);
}

static void end_epoch(struct churn *churn)
{
	build_seal(&churn->build);
	if (fdatasync(churn->build.fd) < 0)
		err(2, "layer");
	build_end(&churn->build);
	publish(churn->dir, ++churn->state, 0, 0);
}

/* In the order that readers count on: old content durable, published, and only then overwritten. A block once an epoch. */
static void some_writes(struct churn *churn)
{
	static _Alignas(4096) uint8_t old[16][CHURN_BYTES], new[CHURN_BYTES];
	struct build_record records[16];
	uint32_t count = 0;

	for (unsigned i = 0; i < ARRAY_LENGTH(records); i++) {
		uint64_t block = (uint64_t)random() % churn->blocks;

		if (churn->touched[block]++)
			continue;
		if (pread(churn->target, old[count], CHURN_BYTES, (off_t)(block * CHURN_BYTES)) != CHURN_BYTES)
			err(2, "target");
		records[count] = (struct build_record){ .offset = block * CHURN_BYTES, .content = old[count], .length = CHURN_BYTES };
		count++;
	}
	if (!count)
		return;
	build_batch(&churn->build, records, count);
	if (fdatasync(churn->build.fd) < 0)
		err(2, "layer");
	publish(churn->dir, churn->state, churn->state + 1, churn->build.seq);
	for (uint32_t i = 0; i < count; i++) {
		memset(new, (int)random(), sizeof(new));
		if (pwrite(churn->target, new, sizeof(new), (off_t)records[i].offset) != CHURN_BYTES)
			err(2, "target");
	}
	churn->left -= churn->left < count ? churn->left : count;
	nanosleep(&(struct timespec){ 0, CHURN_PAUSE_NS }, NULL); /* so that it is a load, and no flood */
}

static void churn(const char *path, const char *target, unsigned seed)
{
	struct churn churn = { .dir = open_directory(path), .target = open(target, O_RDWR | O_CLOEXEC), .state = committed(path) };
	uint64_t bytes = 0;

	if (churn.target < 0 || util_device_bytes(churn.target, &bytes))
		err(2, "%s", target);
	signal(SIGTERM, on_signal);
	srandom(seed);
	churn.blocks = bytes / CHURN_BYTES;
	churn.touched = calloc(churn.blocks, 1);
	begin_epoch(&churn);
	while (!stop) {
		some_writes(&churn);
		if (!churn.left && !stop) {
			end_epoch(&churn);
			begin_epoch(&churn);
		}
	}
	printf("%" PRIu64 " batches in state %" PRIu64 "\n", churn.build.seq, churn.state);
	build_end(&churn.build);
	free(churn.touched);
	close(churn.dir);
}

/* ---- flip ---------------------------------------------------------------- */

static void flip(const char *path, uint64_t base, uint64_t offset)
{
	int dir = open_directory(path), fd;
	struct undo_record *records = NULL;
	char name[UNDO_NAME_BYTES], error[256];
	struct undo_layer opened;
	size_t count = 0;

	undo_layer_name(name, base, base + 1);
	if (undo_layer_open(&opened, dir, name, NULL, error, sizeof(error)) || undo_layer_records(&opened, &records, &count))
		errx(2, "%s: cannot be read", name);
	fd = openat(dir, name, O_RDWR | O_CLOEXEC);
	for (size_t i = 0; i < count; i++) {
		uint64_t inside = offset > records[i].offset ? offset - records[i].offset : 0;
		uint8_t byte;

		if (records[i].disk || records[i].flags & UNDO_ZERO || inside >= records[i].length)
			continue;
		if (pread(fd, &byte, 1, (off_t)(records[i].place + inside)) != 1)
			err(2, "%s", name);
		byte ^= 0x10;
		build_put(fd, &byte, 1, records[i].place + inside);
		return;
	}
	errx(2, "%s: has nothing at %" PRIu64, name, offset);
}

/* ---- serve --------------------------------------------------------------- */

static const char *served, *host;

static json_t *answer(const char *command, const json_t *request, void *user)
{
	const char *selector = json_string_value(json_object_get(request, "point"));
	char path[4096], *end = NULL;
	uint64_t newest = committed(served), id;
	CLEANUP_FREE char *real = realpath(served, NULL);
	json_t *point;

	(void)user;
	if (!strcmp(command, "point-verdict")) {
		snprintf(path, sizeof(path), "%s.verdict", served);
		if (util_write_json(path, request))
			return control_error(NULL, "cannot be kept");
		return json_pack("{s:b}", "ok", 1);
	}
	if (strcmp(command, "point") != 0 || !selector)
		return control_error(NULL, "no such command here");
	id = strtoull(selector + (*selector == '#'), &end, 10);
	if (!strcmp(selector, "latest"))
		id = newest;
	else if (*end || !id || id > newest)
		return control_error("see: reprotect points list", "machine %s: no point %s", host, selector);
	point = meta(id);
	json_object_set_new(point, "id", json_integer((json_int_t)id));
	return json_pack("{s:b, s:s, s:s, s:s, s:o}", "ok", 1, "machine", "11111111-2222-4333-8444-555555555555", "host", host, "log",
			 real, "point", point);
}

static int serve(const char *directory, const char *socket)
{
	struct control *control = NULL;
	sd_event *event = NULL;
	sigset_t set;
	int rc;

	served = directory;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	rc = sd_event_new(&event);
	if (rc < 0 || sd_event_add_signal(event, NULL, SIGTERM, NULL, NULL) < 0)
		errx(2, "no event loop");
	rc = control_new(&control, event, socket, answer, NULL);
	if (rc)
		errx(2, "%s: %s", socket, strerror(-rc));
	rc = sd_event_loop(event);
	control_free(control);
	sd_event_unref(event);
	return rc < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 3 ? argv[1] : "";

	log_init("undolog", LOG_LEVEL_WARNING);
	if (!strcmp(what, "build")) {
		for (int i = 3; i < argc; i++)
			parse_disk(argv[i]);
		build(argv[2]);
		return 0;
	}
	if (!strcmp(what, "churn") && argc == 5) {
		churn(argv[2], argv[3], (unsigned)atoi(argv[4]));
		return 0;
	}
	if (!strcmp(what, "flip") && argc == 5) {
		flip(argv[2], strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0));
		return 0;
	}
	if (!strcmp(what, "serve") && argc > 5) {
		host = argv[4];
		for (int i = 5; i < argc; i++)
			parse_disk(argv[i]);
		return serve(argv[2], argv[3]);
	}
	errx(2, "usage: see the head of undolog.c");
}

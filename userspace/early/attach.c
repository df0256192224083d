// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * attach: reads early.conf, loads the module, attaches the disks as they appear, and keeps the
 * report up to date at every step, so that it says how far this came if the program is killed or dies.
 * Called by main.c.
 *
 * Runs several times in a boot. What an earlier run attached keeps its entry in the report.
 *
 * A disk with a store is attached awaiting it: nothing of it is dirty but what is written from then on.
 * Should the machine stop before the store was added, those writes are known to nobody. Therefore the store
 * is marked before anything is mounted, at its place on its device, with the number of this boot
 * (store_mark()); after the attaching, for the store may lie on the very disk. A disk whose store cannot be marked
 * goes on as one without: all of it is dirty. A boot in which the disk is not attached is marked as well.
 */
#include "attach.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>

#include "cbt.h"
#include "early.h"
#include "log.h"
#include "store.h"
#include "util.h"

#define POLL_MS 50

struct run {
	const struct early_options *options;
	struct early_conf conf;
	struct cbt *cbt;
	json_t *report, *disks;
	const json_t *before; /* report of an earlier run, or NULL */
	bool attached[EARLY_DISKS_MAX], failed[EARLY_DISKS_MAX];
	enum { MARK_NOT_YET, MARK_DONE, MARK_LATER, MARK_NONE } mark[EARLY_DISKS_MAX];
};

static void write_report(struct run *run)
{
	int rc = util_write_json(run->options->report, run->report);

	if (rc)
		log_warning("%s: cannot write the report: %s", run->options->report, strerror(-rc));
}

/* What is done from here on, should it be the last thing. */
static void step(struct run *run, const char *format, const char *argument)
{
	char text[256];

	snprintf(text, sizeof(text), format, argument);
	json_object_set_new(run->report, "step", json_string(text));
	write_report(run);
}

static json_t *problem_json(const char *message, const char *remedy)
{
	return json_pack("{s:s, s:s}", "message", message, "remedy", remedy);
}

static int give_up(struct run *run, const char *message, const char *remedy)
{
	log_error("%s (%s)", message, remedy);
	json_object_set_new(run->report, "error", problem_json(message, remedy));
	return 1;
}

static int finish(struct run *run, int rc)
{
	uint64_t now = util_now_ms();

	json_object_set_new(run->report, "finished", json_true());
	json_object_del(run->report, "step");
	json_object_set_new(run->report, "took_ms",
			    json_integer((json_int_t)now -
					 json_integer_value(json_object_get(run->report, "began_ms"))));
	write_report(run);
	return rc;
}

static json_t *disk_entry(struct run *run, size_t i)
{
	return json_array_get(run->disks, i);
}

static void disk_attached(struct run *run, size_t i, const struct cbt_disk *info, const char *found)
{
	json_t *entry = disk_entry(run, i);
	const json_t *earlier = early_report_disk(run->before, info->id);
	char text[32];

	run->attached[i] = true;
	if (json_is_true(json_object_get(earlier, "attached"))) {
		json_object_update(entry, (json_t *)earlier);
		json_object_del(entry, "error");
		return;
	}
	snprintf(text, sizeof(text), "%" PRIx64, info->id);
	json_object_del(entry, "error");
	json_object_update_new(entry, json_pack("{s:b, s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "attached", 1, "found_by",
						found, "kernel_name", info->name, "kernel_id", text,
						"size_bytes", (json_int_t)info->size_bytes, "dirty_bytes",
						(json_int_t)info->dirty_bytes, "attached_ms",
						(json_int_t)util_now_ms(), "when", run->options->when));
	log_info("disk %s: attached as %s, found by %s", run->conf.disks[i].name, info->name, found);
}

static void disk_problem(struct run *run, size_t i, const char *message, const char *remedy)
{
	json_object_set_new(disk_entry(run, i), "error", problem_json(message, remedy));
}

static void store_entry(struct run *run, size_t i, const char *state, const char *reason)
{
	json_t *entry = disk_entry(run, i);

	json_object_set_new(entry, "store_state", json_string(state));
	if (reason && *reason)
		json_object_set_new(entry, "store_reason", json_string(reason));
	else
		json_object_del(entry, "store_reason");
}

static void mark_store(struct run *run, size_t i)
{
	const struct early_disk *disk = &run->conf.disks[i];
	char text[512] = "the agent has not written down where it is";
	int rc = -ENODATA;

	if (!disk->store || run->mark[i] == MARK_DONE || run->mark[i] == MARK_NONE)
		return;
	step(run, "marking the store of disk %s", disk->name);
	if (disk->store_device)
		rc = store_mark(disk->store_device, disk->store_offset, disk->identity, text, sizeof(text));
	/* A volume may appear later, but before anything is mounted. */
	run->mark[i] = !rc ? MARK_DONE :
		       (rc == -ENOENT || rc == -ENXIO) && !run->options->last ? MARK_LATER :
										MARK_NONE;
	store_entry(run, i, rc ? "none" : "awaited", rc ? text : NULL);
	if (run->mark[i] == MARK_NONE)
		log_warning("disk %s: its store cannot be marked: %s: attached without, all of it is dirty", disk->name,
			    text);
}

/* A boot without the module, or without the disk, is one in which it may be written and nobody knows. */
static void mark_stores(struct run *run)
{
	for (size_t i = 0; i < run->conf.disk_count; i++)
		mark_store(run, i);
}

/* A disk that is attached and awaits its store. False: its device is not there yet. */
static bool mark_attached(struct run *run, size_t i, struct cbt_disk *info)
{
	const struct early_disk *disk = &run->conf.disks[i];
	char text[512];

	if (!disk->store || info->store_state != BLKCBT_STORE_ID_AWAITED)
		return true;
	mark_store(run, i);
	if (run->mark[i] == MARK_DONE)
		return true;
	if (run->mark[i] == MARK_LATER) {
		snprintf(text, sizeof(text), "disk %s: the device of its store is not there yet: %s", disk->name,
			 disk->store_device);
		disk_problem(run, i, text, "it goes on without its store, once anything is to be mounted");
		return false;
	}
	if (cbt_store_drop(run->cbt, info->dev))
		log_warning("disk %s: still awaits its store: %s", disk->name, cbt_error(run->cbt));
	else
		cbt_get(run->cbt, info->dev, info);
	json_object_set_new(disk_entry(run, i), "dirty_bytes", json_integer((json_int_t)info->dirty_bytes));
	return true;
}

static void tracked(struct run *run, size_t i, struct cbt_disk *info, const char *found)
{
	disk_attached(run, i, info, found);
	run->attached[i] = mark_attached(run, i, info);
}

/* One attempt. A disk that is not there is tried again; one that cannot be attached is not. */
static void try_disk(struct run *run, size_t i)
{
	const struct early_disk *disk = &run->conf.disks[i];
	static const struct cbt_store awaited = { .fd = -1 };
	char found[224] = "", text[512];
	struct cbt_disk info;
	dev_t dev = 0;
	int rc;

	rc = disk_names_resolve(&disk->names, disk->device, &dev, found, sizeof(found));
	if (rc) {
		snprintf(text, sizeof(text), "disk %s: cannot be found: %s", disk->name,
			 rc == -ENOTUNIQ ? "several disks have this partition table or content" :
			 rc == -ENOTBLK	 ? "the name is not of a block device" :
			 rc == -ENOENT	 ? "no disk has one of its names" :
					   strerror(-rc));
		disk_problem(run, i, text,
			     rc == -ENOTUNIQ ? "remove the copy of the disk, or give the disk a serial number" :
					       "the agent attaches it when it is there; if it has moved, start the "
					       "agent, then update-initramfs -u");
		return;
	}
	if (!cbt_get(run->cbt, dev, &info)) {
		tracked(run, i, &info, found);
		return;
	}
	step(run, "attaching disk %s", disk->name);
	rc = cbt_attach(run->cbt, dev, (uint32_t)disk->granule_bytes, disk->store ? &awaited : NULL, &info);
	if (!rc) {
		tracked(run, i, &info, found);
		return;
	}
	run->failed[i] = true;
	snprintf(text, sizeof(text), "disk %s (%s, %u:%u): cannot attach: %s: %s", disk->name, found, major(dev),
		 minor(dev), strerror(-rc), cbt_error(run->cbt));
	log_error("%s", text);
	disk_problem(run, i, text, "see the kernel log: dmesg | grep blkcbt; the agent tries again");
}

/* How many of the list are neither attached nor given up. */
static size_t try_disks(struct run *run)
{
	size_t left = 0;

	for (size_t i = 0; i < run->conf.disk_count; i++) {
		if (!run->attached[i] && !run->failed[i])
			try_disk(run, i);
		left += !run->attached[i] && !run->failed[i];
	}
	return left;
}

static int attach_disks(struct run *run)
{
	const struct timespec pause = { 0, POLL_MS * 1000000L };
	uint64_t end = util_now_ms() + (run->options->wait ? run->conf.wait_ms : 0);
	int rc = 0;

	while (try_disks(run) && util_now_ms() < end) {
		step(run, "waiting for disks%s", "");
		nanosleep(&pause, NULL);
	}
	for (size_t i = 0; i < run->conf.disk_count; i++) {
		if (run->attached[i])
			continue;
		rc = 1;
		if (!run->failed[i])
			log_error("%s", json_string_value(json_object_get(
						json_object_get(disk_entry(run, i), "error"), "message")));
	}
	return rc;
}

static int module_ready(struct run *run)
{
	char error[512] = "";
	struct cbt_info info;
	int rc;

	step(run, "loading the kernel module%s", "");
	rc = cbt_load(run->conf.module, error, sizeof(error));
	if (rc)
		return give_up(run, error, "then update-initramfs -u; the agent says whether it can be loaded now");
	step(run, "asking the kernel module%s", "");
	rc = cbt_open(&run->cbt);
	if (!rc)
		rc = cbt_get_info(run->cbt, &info);
	if (rc) {
		snprintf(error, sizeof(error), "module blkcbt is loaded and does not answer: %s",
			 run->cbt && cbt_error(run->cbt)[0] ? cbt_error(run->cbt) : strerror(-rc));
		return give_up(run, error, "see the kernel log: dmesg | grep blkcbt");
	}
	json_object_set_new(run->report, "module",
			    json_pack("{s:s, s:s, s:s}", "version", info.version, "mode",
				      cbt_mode_name(info.gate_mode), "reason", info.gate_reason));
	return 0;
}

static void list_disks(struct run *run)
{
	for (size_t i = 0; i < run->conf.disk_count; i++) {
		const struct early_disk *disk = &run->conf.disks[i];
		json_t *entry = json_pack("{s:s, s:b}", "name", disk->name, "attached", 0);

		if (disk->device)
			json_object_set_new(entry, "device", json_string(disk->device));
		if (disk->store)
			json_object_set_new(entry, "store", json_string(disk->store));
		json_array_append_new(run->disks, entry);
	}
}

static int attach_all(struct run *run)
{
	char error[512] = "";
	int rc;

	step(run, "reading %s", run->options->config);
	if (early_conf_load(&run->conf, run->options->config, error, sizeof(error)))
		return give_up(run, error, "start the agent, which writes the list anew; then update-initramfs -u");
	list_disks(run);
	if (!run->conf.disk_count)
		return 0;
	rc = module_ready(run) ? 1 : attach_disks(run);
	mark_stores(run);
	return rc;
}

/* The least generation of the disk's store that is trusted, of what the agent remembers. */
static bool generation_of(const json_t *state, const char *name, uint64_t *generation)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(state, "disks"), i, disk)
	{
		const char *its = json_string_value(json_object_get(disk, "name"));

		if (!its || strcmp(its, name) != 0)
			continue;
		*generation = (uint64_t)json_integer_value(json_object_get(disk, "store_generation"));
		return true;
	}
	return false;
}

/* A store is read where it lies: a file of the root file system, or a device. */
static int open_store(const struct run *run, const struct early_disk *disk)
{
	char path[PATH_MAX];
	struct stat status;
	int fd;

	if (stat(disk->store, &status) < 0 || !S_ISBLK(status.st_mode))
		snprintf(path, sizeof(path), "%s%s", run->options->stores, disk->store);
	else
		snprintf(path, sizeof(path), "%s", disk->store);
	/* Not for writing: the file system is read-only still, and is to be made so again one day. */
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void add_store(struct run *run, size_t i, dev_t dev, const json_t *state)
{
	const struct early_disk *disk = &run->conf.disks[i];
	struct cbt_store store = { .fd = -1 };
	struct cbt_disk info;
	int rc;

	if (!disk->store || !generation_of(state, disk->name, &store.generation_min))
		return;
	step(run, "adding the store of disk %s", disk->name);
	snprintf(store.identity, sizeof(store.identity), "%s", disk->identity);
	CLEANUP_FD int fd = open_store(run, disk);
	store.fd = fd;
	rc = fd < 0 ? fd : cbt_store_add(run->cbt, dev, &store, &info);
	if (rc) {
		log_warning("disk %s: its store cannot be added yet: %s (the agent tries again)", disk->name,
			    fd < 0 || !cbt_error(run->cbt)[0] ? strerror(-rc) : cbt_error(run->cbt));
		return;
	}
	store_entry(run, i, info.store_trusted ? "trusted" : cbt_store_state_name(info.store_state), info.store_reason);
	json_object_set_new(disk_entry(run, i), "dirty_bytes", json_integer((json_int_t)info.dirty_bytes));
	log_info("disk %s: store added%s%s", disk->name, info.store_trusted ? "" : ", not trusted: ", info.store_reason);
}

/* The root file system is mounted: what was left without its store gets it. The report goes on. */
static int add_stores(struct run *run)
{
	char error[512] = "", path[PATH_MAX];
	CLEANUP_JSON json_t *state = NULL;
	struct cbt_disk *disks = NULL;
	size_t count = 0;

	if (early_conf_load(&run->conf, run->options->config, error, sizeof(error))) {
		log_warning("%s", error);
		return 1;
	}
	snprintf(path, sizeof(path), "%s%s", run->options->stores, run->conf.state ? run->conf.state : "/");
	if (util_read_json(path, &state, error, sizeof(error)) || cbt_open(&run->cbt) ||
	    cbt_list(run->cbt, &disks, &count))
		return 1;
	for (size_t j = 0; j < count; j++) {
		const json_t *entry = early_report_disk(run->report, disks[j].id);

		for (size_t i = 0; entry && i < run->conf.disk_count; i++)
			if (disk_entry(run, i) == entry && disks[j].store_state == BLKCBT_STORE_ID_AWAITED)
				add_store(run, i, disks[j].dev, state);
	}
	free(disks);
	return 0;
}

/* The report of the runs before, to be gone on with. */
static int run_stores(struct run *run, json_t *before)
{
	int rc;

	if (!before)
		return 1;
	run->report = json_incref(before);
	run->disks = json_object_get(before, "disks");
	rc = add_stores(run);
	json_object_del(run->report, "step");
	write_report(run);
	return rc;
}

/* Where the report goes; in the initramfs it is the script's, run by hand there may be none yet. */
static void make_folder(const char *report)
{
	CLEANUP_FREE char *folder = strdup(report);
	char *slash = folder ? strrchr(folder, '/') : NULL;

	if (!slash || slash == folder)
		return;
	*slash = '\0';
	util_mkdirs(folder); /* a failure shows when the report is written */
}

int early_run(const struct early_options *options)
{
	struct run run = { .options = options };
	struct utsname kernel = { 0 };
	char error[256], id[17];
	json_t *before = NULL;
	int rc;

	make_folder(options->report);
	if (util_read_json(options->report, &before, error, sizeof(error)))
		before = NULL;
	run.before = before;
	if (options->stores) {
		rc = run_stores(&run, before);
		goto out;
	}
	uname(&kernel);
	early_conf_id(options->config, id);
	run.report = json_pack("{s:i, s:b, s:s, s:s, s:s, s:s, s:I, s:[]}", "version", 1, "finished", 0,
			       "when", options->when, "kernel", kernel.release, "config", options->config,
			       "config_id", id, "began_ms", (json_int_t)util_now_ms(), "disks");
	run.disks = json_object_get(run.report, "disks");
	if (!run.report) {
		log_error("out of memory");
		json_decref(before);
		return 1;
	}
	rc = finish(&run, attach_all(&run));
out:
	cbt_close(run.cbt);
	early_conf_free(&run.conf);
	json_decref(run.report);
	json_decref(before);
	return rc;
}

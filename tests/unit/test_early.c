/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of reprotect-early's work with a made-up kernel module and made-up disks; of early.conf; of the report. */
/* LINK: userspace/early/attach.c */
#include "userspace/early/attach.h"
#include "cbt.h"
#include "early.h"
#include "log.h"
#include "store.h"
#include "util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

/* The module and the disks, instead of cbt.c, cbt_load.c and disk_names.c. */
static struct {
	int load, open, info, attach, resolve;
	bool attached; /* already, before us */
	unsigned resolves_after, resolved, loads;
	int mark, add;
	unsigned marks, drops, adds;
	bool awaiting; /* as it was attached */
	uint64_t id, generation_min;
	char error[64];
} fake;

int cbt_load(const char *path, char *error, size_t error_bytes)
{
	(void)path;
	fake.loads++;
	snprintf(error, error_bytes, "%s", fake.load ? "module blkcbt: cannot load: no such file" : "");
	return fake.load;
}

int cbt_open(struct cbt **cbt)
{
	*cbt = fake.open ? NULL : (struct cbt *)(void *)&fake;
	return fake.open;
}

void cbt_close(struct cbt *cbt)
{
	(void)cbt;
}

const char *cbt_error(const struct cbt *cbt)
{
	(void)cbt;
	return fake.error;
}

const char *cbt_mode_name(uint32_t gate_mode)
{
	(void)gate_mode;
	return "full";
}

int cbt_get_info(struct cbt *cbt, struct cbt_info *info)
{
	(void)cbt;
	*info = (struct cbt_info){ .version = "7" };
	return fake.info;
}

static void tell(dev_t dev, struct cbt_disk *disk)
{
	*disk = (struct cbt_disk){ .dev = dev, .id = fake.id, .size_bytes = 4096, .dirty_bytes = 4096 };
	disk->store_state = fake.awaiting ? BLKCBT_STORE_ID_AWAITED : BLKCBT_STORE_ID_NONE;
	snprintf(disk->name, sizeof(disk->name), "vd%c", 'a' + (char)minor(dev));
}

int cbt_attach(struct cbt *cbt, dev_t dev, uint32_t granule_bytes, const struct cbt_store *store,
	       struct cbt_disk *disk)
{
	(void)cbt;
	(void)granule_bytes;
	assert_false(fake.attached);
	fake.awaiting = store && store->fd < 0;
	fake.attached = !fake.attach;
	tell(dev, disk);
	return fake.attach;
}

int cbt_get(struct cbt *cbt, dev_t dev, struct cbt_disk *disk)
{
	(void)cbt;
	tell(dev, disk);
	return fake.attached ? 0 : -ENOENT;
}

int cbt_list(struct cbt *cbt, struct cbt_disk **disks, size_t *count)
{
	(void)cbt;
	*disks = calloc(1, sizeof(**disks));
	assert_non_null(*disks);
	tell(makedev(254, 0), *disks);
	(*disks)->store_state = BLKCBT_STORE_ID_AWAITED;
	*count = 1;
	return 0;
}

int cbt_store_drop(struct cbt *cbt, dev_t dev)
{
	(void)cbt;
	(void)dev;
	fake.drops++;
	fake.awaiting = false;
	return 0;
}

int cbt_store_add(struct cbt *cbt, dev_t dev, const struct cbt_store *store, struct cbt_disk *disk)
{
	(void)cbt;
	assert_true(store->fd >= 0);
	assert_string_equal(store->identity, "disk-a");
	fake.generation_min = store->generation_min;
	fake.adds++;
	tell(dev, disk);
	disk->store_trusted = true;
	disk->dirty_bytes = 77;
	return fake.add;
}

const char *cbt_store_state_name(uint32_t state)
{
	(void)state;
	return "active";
}

/* The store, instead of store.c. */
int store_mark(const char *path, uint64_t offset_bytes, const char *identity, char *error, size_t error_bytes)
{
	assert_string_equal(path, "/dev/vdc1");
	assert_int_equal(offset_bytes, 1048576);
	assert_string_equal(identity, "disk-a");
	fake.marks++;
	snprintf(error, error_bytes, "the store is that of another disk");
	return fake.mark;
}

int disk_names_any(const struct disk_names *names)
{
	return names->by_id[0] || names->by_path[0] || names->ptuuid[0] || names->uuid[0];
}

int disk_names_resolve(const struct disk_names *names, const char *device, dev_t *dev, char *found,
		       size_t found_bytes)
{
	(void)device;
	if (fake.resolved++ < fake.resolves_after)
		return -ENOENT;
	*dev = makedev(254, 0);
	snprintf(found, found_bytes, "%s", names->by_id[0] ? names->by_id : "a name");
	return fake.resolve;
}

static char folder[] = "/tmp/test_early.XXXXXX";
static char conf_path[64], report_path[64];

static void put_conf(const char *text)
{
	assert_int_equal(util_write_file(conf_path, text, strlen(text)), 0);
}

static int run(bool wait)
{
	struct early_options options = {
		.config = conf_path, .report = report_path, .when = "test", .wait = wait
	};

	return early_run(&options);
}

static int run_last(void)
{
	struct early_options options = { .config = conf_path, .report = report_path, .when = "test", .last = true };

	return early_run(&options);
}

static int run_stores(void)
{
	struct early_options options = {
		.config = conf_path, .report = report_path, .when = "test", .stores = folder
	};

	return early_run(&options);
}

static int setup(void **state)
{
	(void)state;
	memset(&fake, 0, sizeof(fake));
	fake.id = 0xabc;
	unlink(report_path);
	put_conf("[disk root]\ndevice = /dev/vda\nby_id = /dev/disk/by-id/virtio-root\n");
	return 0;
}

static void put_store_conf(void)
{
	put_conf("[early]\nwait = 100ms\nstate = /state.json\n[disk root]\ndevice = /dev/vda\n"
		 "store = /root.store\nidentity = disk-a\nstore_device = /dev/vdc1\nstore_offset = 1M\n");
}

static const char *text_at(const json_t *json, const char *key)
{
	return json_string_value(json_object_get(json, key));
}

static const json_t *disk_at(const json_t *report, size_t i)
{
	return json_array_get(json_object_get(report, "disks"), i);
}

/* What the report says went wrong, as a whole or with its first disk. */
static void assert_says(const json_t *of, const char *what)
{
	const char *message = text_at(json_object_get(of, "error"), "message");

	assert_non_null(message);
	if (!strstr(message, what))
		fail_msg("\"%s\" does not say \"%s\"", message, what);
	assert_true(strlen(text_at(json_object_get(of, "error"), "remedy")) > 0);
}

static void attached(void **state)
{
	CLEANUP_JSON json_t *report = NULL;
	char id[17];

	(void)state;
	assert_int_equal(run(true), 0);
	report = early_report_load(report_path);
	assert_non_null(report);
	assert_true(json_is_true(json_object_get(report, "finished")));
	assert_null(json_object_get(report, "error"));
	early_conf_id(conf_path, id);
	assert_string_equal(text_at(report, "config_id"), id);
	assert_int_equal(strlen(id), 16);
	assert_true(json_is_true(json_object_get(disk_at(report, 0), "attached")));
	assert_string_equal(text_at(disk_at(report, 0), "found_by"), "/dev/disk/by-id/virtio-root");
	assert_string_equal(text_at(disk_at(report, 0), "kernel_name"), "vda");
	assert_ptr_equal(early_report_disk(report, 0xabc), disk_at(report, 0));
	assert_null(early_report_disk(report, 0xabd));
}

static void late_disk(void **state)
{
	CLEANUP_JSON json_t *report = NULL;

	(void)state;
	fake.resolves_after = 3;
	assert_int_equal(run(true), 0);
	report = early_report_load(report_path);
	assert_true(json_is_true(json_object_get(disk_at(report, 0), "attached")));
	assert_null(json_object_get(disk_at(report, 0), "error"));
	assert_int_equal(fake.resolved, 4);
}

/* Without waiting there is one look; with it the wait ends in time. */
static void missing_disk(void **state)
{
	CLEANUP_JSON json_t *report = NULL;
	uint64_t began = util_now_ms();

	(void)state;
	fake.resolves_after = ~0u;
	assert_int_equal(run(false), 1);
	assert_int_equal(fake.resolved, 1);
	put_conf("[early]\nwait = 200ms\n[disk root]\ndevice = /dev/vda\n");
	assert_int_equal(run(true), 1);
	assert_true(fake.resolved > 2);
	assert_true(util_now_ms() - began >= 200);
	report = early_report_load(report_path);
	assert_true(json_is_true(json_object_get(report, "finished")));
	assert_false(json_is_true(json_object_get(disk_at(report, 0), "attached")));
	assert_says(disk_at(report, 0), "cannot be found");
}

static void no_module(void **state)
{
	CLEANUP_JSON json_t *report = NULL;

	(void)state;
	fake.load = -ENOENT;
	assert_int_equal(run(true), 1);
	report = early_report_load(report_path);
	assert_true(json_is_true(json_object_get(report, "finished")));
	assert_says(report, "cannot load: no such file");
	assert_int_equal(fake.resolved, 0);
}

static void module_is_silent(void **state)
{
	CLEANUP_JSON json_t *report = NULL;

	(void)state;
	fake.info = -ETIMEDOUT;
	strcpy(fake.error, "the kernel module did not answer within 5 s");
	assert_int_equal(run(true), 1);
	report = early_report_load(report_path);
	assert_says(report, "did not answer");
}

static void refused(void **state)
{
	CLEANUP_JSON json_t *report = NULL;

	(void)state;
	fake.attach = -EOPNOTSUPP;
	strcpy(fake.error, "vda: zoned disks cannot be tracked");
	assert_int_equal(run(true), 1);
	assert_int_equal(fake.resolved, 1); /* not again and again */
	report = early_report_load(report_path);
	assert_says(disk_at(report, 0), "zoned");
}

/* The second run finds what the first one attached: that is when and by what it was attached. */
static void second_run(void **state)
{
	CLEANUP_JSON json_t *report = NULL;

	(void)state;
	assert_int_equal(run(true), 0);
	put_conf("[disk root]\ndevice = /dev/vda\n");
	assert_int_equal(run(false), 0);
	report = early_report_load(report_path);
	assert_string_equal(text_at(disk_at(report, 0), "found_by"), "/dev/disk/by-id/virtio-root");
	/* Another attachment is another's. */
	fake.id = 0xdef;
	json_decref(report);
	assert_int_equal(run(false), 0);
	report = early_report_load(report_path);
	assert_string_equal(text_at(disk_at(report, 0), "found_by"), "a name");
}

/* Marked, then attached awaiting it, then given its store. */
static void store(void **state)
{
	static const char remembered[] = "{\"disks\": [{\"name\": \"root\", \"store_generation\": 9}]}";
	char path[64];
	json_t *report;

	(void)state;
	put_store_conf();
	assert_int_equal(run(true), 0);
	assert_int_equal(fake.marks, 1);
	assert_true(fake.awaiting);
	assert_int_equal(fake.drops, 0);
	report = early_report_load(report_path);
	assert_string_equal(text_at(disk_at(report, 0), "store_state"), "awaited");
	json_decref(report);

	/* Not without what the agent remembers, nor without the file: the agent does it later. */
	run_stores();
	assert_int_equal(fake.adds, 0);
	snprintf(path, sizeof(path), "%s/state.json", folder);
	assert_int_equal(util_write_file(path, remembered, strlen(remembered)), 0);
	run_stores();
	assert_int_equal(fake.adds, 0);
	snprintf(path, sizeof(path), "%s/root.store", folder);
	assert_int_equal(util_write_file(path, "x", 1), 0);
	assert_int_equal(run_stores(), 0);
	assert_int_equal(fake.adds, 1);
	assert_int_equal(fake.generation_min, 9);
	report = early_report_load(report_path);
	assert_true(json_is_true(json_object_get(report, "finished")));
	assert_string_equal(text_at(disk_at(report, 0), "store_state"), "trusted");
	assert_int_equal(json_integer_value(json_object_get(disk_at(report, 0), "dirty_bytes")), 77);
	assert_ptr_equal(early_report_disk(report, 0xabc), disk_at(report, 0));
	json_decref(report);
	unlink(path);
	snprintf(path, sizeof(path), "%s/state.json", folder);
	unlink(path);
}

/* What cannot be marked is not waited for: all of it is dirty. */
static void store_unmarked(void **state)
{
	CLEANUP_JSON json_t *report = NULL;

	(void)state;
	put_store_conf();
	fake.mark = -ESTALE;
	assert_int_equal(run(true), 0);
	assert_int_equal(fake.marks, 1);
	assert_int_equal(fake.drops, 1);
	report = early_report_load(report_path);
	assert_true(json_is_true(json_object_get(disk_at(report, 0), "attached")));
	assert_string_equal(text_at(disk_at(report, 0), "store_state"), "none");
	assert_string_equal(text_at(disk_at(report, 0), "store_reason"), "the store is that of another disk");
}

/* A device that appears later; in the end the disk is attached without. */
static void store_later(void **state)
{
	CLEANUP_JSON json_t *report = NULL;

	(void)state;
	put_store_conf();
	fake.mark = -ENOENT;
	assert_int_equal(run(true), 1);
	assert_true(fake.attached && fake.awaiting);
	assert_true(fake.marks > 1);
	assert_int_equal(fake.drops, 0);
	report = early_report_load(report_path);
	assert_says(disk_at(report, 0), "the device of its store is not there yet");
	assert_int_equal(run_last(), 0);
	assert_int_equal(fake.drops, 1);
}

/* A boot without the module, or without the disk, is one in which nobody tracks it. */
static void store_marked_first(void **state)
{
	(void)state;
	put_store_conf();
	fake.load = -ENOENT;
	assert_int_equal(run(true), 1);
	assert_int_equal(fake.marks, 1);
	fake.load = 0;
	fake.resolve = -ENOENT;
	assert_int_equal(run(true), 1);
	assert_int_equal(fake.marks, 2);
}

static void garbage(void **state)
{
	static const char *const texts[] = {
		"\177ELF\001\002\377\376", "[disk root]\n", "[disk]\ndevice = /dev/vda\n", "[early]\nwait = 1h\n",
		"[disk root]\ndevice = /dev/vda\ngranule_bytes = 17M\n", "nonsense", "[disk root]\nunknown = 1\n",
		"[disk root]\ndevice = /dev/vda\nstore = /dev/vdc\n",
		("[disk root]\ndevice = /dev/vda\nstore = /dev/vdc\nidentity = "
		 "12345678901234567890123456789012345678901234567890123456789012345\n"),
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
		CLEANUP_JSON json_t *report = NULL;

		put_conf(texts[i]);
		assert_int_equal(run(true), 1);
		report = early_report_load(report_path);
		assert_true(json_is_true(json_object_get(report, "finished")));
		assert_says(report, conf_path);
	}
	assert_int_equal(fake.loads, 0); /* nothing is loaded for a list that is none */
	unlink(conf_path);
	assert_int_equal(run(true), 1);
}

static void empty_list(void **state)
{
	CLEANUP_JSON json_t *report = NULL;

	(void)state;
	put_conf("# nothing\n");
	assert_int_equal(run(true), 0);
	assert_int_equal(fake.loads, 0);
	report = early_report_load(report_path);
	assert_true(json_is_true(json_object_get(report, "finished")));
}

/* What the agent writes is what is read. */
static void round_trip(void **state)
{
	struct early_conf *conf = calloc(1, sizeof(*conf)), *back = calloc(1, sizeof(*back));
	CLEANUP_FREE char *text = NULL;
	char error[256] = "";

	(void)state;
	assert_non_null(conf);
	assert_non_null(back);
	conf->module = (char *)"/opt/blkcbt.ko";
	conf->disk_count = 2;
	conf->disks[0] = (struct early_disk){
		.name = (char *)"root",
		.device = (char *)"/dev/vda",
		.names = { "/dev/disk/by-id/wwn-0x5", "/dev/disk/by-path/pci-0000:00:04.0", "9f-12", "aa-bb" },
		.granule_bytes = 65536,
		.store = (char *)"/var/lib/reprotect/root.store",
		.identity = (char *)"wwn-0x5",
		.store_device = (char *)"/dev/vda1",
		.store_offset = 123456789012345,
	};
	conf->state = (char *)"/var/lib/reprotect/disks.json";
	conf->disks[1] = (struct early_disk){ .name = (char *)"data", .device = (char *)"/dev/vdb" };
	text = early_conf_text(conf);
	assert_non_null(text);
	put_conf(text);
	if (early_conf_load(back, conf_path, error, sizeof(error)))
		fail_msg("%s", error);
	assert_string_equal(back->module, "/opt/blkcbt.ko");
	assert_int_equal(back->disk_count, 2);
	assert_string_equal(back->disks[0].device, "/dev/vda");
	assert_memory_equal(&back->disks[0].names, &conf->disks[0].names, sizeof(struct disk_names));
	assert_int_equal(back->disks[0].granule_bytes, 65536);
	assert_string_equal(back->disks[0].store, "/var/lib/reprotect/root.store");
	assert_string_equal(back->disks[0].identity, "wwn-0x5");
	assert_string_equal(back->disks[0].store_device, "/dev/vda1");
	assert_int_equal(back->disks[0].store_offset, 123456789012345);
	assert_string_equal(back->state, "/var/lib/reprotect/disks.json");
	assert_null(back->disks[1].store);
	assert_string_equal(back->disks[1].name, "data");
	assert_null(back->disks[1].store);
	assert_int_equal(back->wait_ms, 1500);
	early_conf_free(back);
	free(back);
	free(conf);
}

static json_t *loaded(const char *text)
{
	assert_int_equal(util_write_file(report_path, text, strlen(text)), 0);
	return early_report_load(report_path);
}

static void reports(void **state)
{
	CLEANUP_JSON json_t *died = NULL, *broken = NULL, *odd = NULL;

	(void)state;
	assert_null(early_report_load("/nonexistent/early.json"));
	died = loaded("{\"finished\": false, \"ended\": \"it died with exit status 139\", \"step\": \"attaching disk root\"}");
	assert_says(died, "attaching disk root: it died with exit status 139");
	broken = loaded("{\"finished\": tr");
	assert_says(broken, "not valid JSON");
	odd = loaded("[]");
	assert_says(odd, "not an object");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(attached, setup),      cmocka_unit_test_setup(late_disk, setup),
		cmocka_unit_test_setup(missing_disk, setup),  cmocka_unit_test_setup(no_module, setup),
		cmocka_unit_test_setup(module_is_silent, setup), cmocka_unit_test_setup(refused, setup),
		cmocka_unit_test_setup(second_run, setup),    cmocka_unit_test_setup(store, setup),
		cmocka_unit_test_setup(store_unmarked, setup),
		cmocka_unit_test_setup(store_later, setup),
		cmocka_unit_test_setup(store_marked_first, setup),
		cmocka_unit_test_setup(garbage, setup),
		cmocka_unit_test_setup(empty_list, setup),    cmocka_unit_test_setup(round_trip, setup),
		cmocka_unit_test_setup(reports, setup),
	};
	int rc;

	if (!mkdtemp(folder))
		return 1;
	snprintf(conf_path, sizeof(conf_path), "%s/early.conf", folder);
	snprintf(report_path, sizeof(report_path), "%s/early.json", folder);
	log_init("test_early", LOG_LEVEL_ERROR);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(conf_path);
	unlink(report_path);
	rmdir(folder);
	return rc;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * early: early.conf and the report of early boot; see early.h. Called by the agent (writes the
 * one, shows the other), reprotect-early (the other way round) and the command line.
 */
#include "early.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "conf.h"
#include "linux/blkcbt.h"
#include "util.h"

#define CONF_MAX (1u << 20)

static const struct conf_key keys[] = {
	{ "early", "module", CONF_STRING, offsetof(struct early_conf, module), NULL, 0, 0, NULL,
	  "path of blkcbt.ko; default: looked up" },
	{ "early", "state", CONF_STRING, offsetof(struct early_conf, state), NULL, 0, 0, NULL,
	  "what the agent remembers of its disks" },
	{ "early", "wait", CONF_MS, offsetof(struct early_conf, wait_ms), "1500ms", 0, 3000, NULL,
	  "how long to wait for disks that are not there yet, all together" },
	{ "disk", "device", CONF_STRING, offsetof(struct early_disk, device), NULL, 0, 0, NULL,
	  "the disk, when it has none of the names below" },
	{ "disk", "by_id", CONF_STRING, offsetof(struct early_disk, by_id), NULL, 0, 0, NULL,
	  "path in /dev/disk/by-id" },
	{ "disk", "ptuuid", CONF_STRING, offsetof(struct early_disk, ptuuid), NULL, 0, 0, NULL,
	  "identity of the partition table" },
	{ "disk", "uuid", CONF_STRING, offsetof(struct early_disk, uuid), NULL, 0, 0, NULL,
	  "uuid of what fills the whole disk" },
	{ "disk", "by_path", CONF_STRING, offsetof(struct early_disk, by_path), NULL, 0, 0, NULL,
	  "path in /dev/disk/by-path" },
	{ "disk", "granule_bytes", CONF_BYTES, offsetof(struct early_disk, granule_bytes), NULL,
	  BLKCBT_GRANULE_MIN, BLKCBT_GRANULE_MAX, NULL, "unit of tracking" },
	{ "disk", "store", CONF_STRING, offsetof(struct early_disk, store), NULL, 0, 0, NULL,
	  "block device or file that keeps its map over a reboot" },
	{ "disk", "identity", CONF_STRING, offsetof(struct early_disk, identity), NULL, 0, 0, NULL,
	  "the disk's name in its store" },
	{ "disk", "store_device", CONF_STRING, offsetof(struct early_disk, store_device), NULL, 0, 0, NULL,
	  "block device where the store begins" },
	{ "disk", "store_offset", CONF_BYTES, offsetof(struct early_disk, store_offset), NULL, 0, 0, NULL,
	  "and at which byte of it" },
	{ 0 },
};

static void *early_section(void *user, const char *kind, const char *name)
{
	struct early_conf *conf = user;

	if (!strcmp(kind, "early") && !(name && *name))
		return conf;
	if (strcmp(kind, "disk") != 0 || !name || !*name)
		return NULL;
	_Static_assert(offsetof(struct early_disk, name) == 0, "conf_instance() looks there");
	return conf_instance(conf->disks, sizeof(conf->disks[0]), EARLY_DISKS_MAX, &conf->disk_count, name);
}

static const struct conf_schema schema = { keys, early_section };

static int take_name(const char *path, const char *disk, const char *value, char *out,
		     size_t out_bytes, char *error, size_t error_bytes)
{
	size_t bytes = value ? strlen(value) : 0;

	if (bytes >= out_bytes) {
		snprintf(error, error_bytes, "%s: [disk %s]: %s is too long", path, disk, value);
		return -EINVAL;
	}
	if (bytes)
		memcpy(out, value, bytes);
	out[bytes] = '\0';
	return 0;
}

int early_conf_load(struct early_conf *conf, const char *path, char *error, size_t error_bytes)
{
	int rc;

	memset(conf, 0, sizeof(*conf));
	conf_defaults(&schema, "early", conf);
	rc = conf_load(&schema, path, conf, error, error_bytes);
	for (size_t i = 0; !rc && i < conf->disk_count; i++) {
		struct early_disk *disk = &conf->disks[i];
		struct disk_names *names = &disk->names;

		rc = take_name(path, disk->name, disk->by_id, names->by_id, sizeof(names->by_id), error,
			       error_bytes);
		if (!rc)
			rc = take_name(path, disk->name, disk->ptuuid, names->ptuuid,
				       sizeof(names->ptuuid), error, error_bytes);
		if (!rc)
			rc = take_name(path, disk->name, disk->uuid, names->uuid, sizeof(names->uuid),
				       error, error_bytes);
		if (!rc)
			rc = take_name(path, disk->name, disk->by_path, names->by_path,
				       sizeof(names->by_path), error, error_bytes);
		if (!rc && disk->store && (!disk->identity || strlen(disk->identity) > BLKCBT_IDENTITY_BYTES)) {
			snprintf(error, error_bytes, "%s: [disk %s]: a store needs an identity of at most %u bytes",
				 path, disk->name, BLKCBT_IDENTITY_BYTES);
			rc = -EINVAL;
		}
		if (!rc && !disk->device && !disk_names_any(names)) {
			snprintf(error, error_bytes, "%s: [disk %s]: no name of a disk", path, disk->name);
			rc = -EINVAL;
		}
	}
	return rc;
}

void early_conf_free(struct early_conf *conf)
{
	for (size_t i = 0; i < conf->disk_count; i++) {
		conf_free(&schema, "disk", &conf->disks[i]);
		free(conf->disks[i].name);
	}
	conf_free(&schema, "early", conf);
}

static void put(FILE *file, const char *key, const char *value)
{
	if (value && *value)
		fprintf(file, "%s = %s\n", key, value);
}

char *early_conf_text(const struct early_conf *conf)
{
	char *text = NULL;
	size_t bytes;
	FILE *file = open_memstream(&text, &bytes);

	if (!file)
		return NULL;
	fputs("# Written by reprotect-agent: the disks that reprotect-early(8) attaches before the root file\n"
	      "# system is mounted. Part of the initramfs: after a change run update-initramfs -u.\n",
	      file);
	if (conf->module || conf->state)
		fputs("\n[early]\n", file);
	put(file, "module", conf->module);
	put(file, "state", conf->state);
	for (size_t i = 0; i < conf->disk_count; i++) {
		const struct early_disk *disk = &conf->disks[i];

		fprintf(file, "\n[disk %s]\n", disk->name);
		put(file, "device", disk->device);
		put(file, "by_id", disk->names.by_id);
		put(file, "ptuuid", disk->names.ptuuid);
		put(file, "uuid", disk->names.uuid);
		put(file, "by_path", disk->names.by_path);
		if (disk->granule_bytes)
			fprintf(file, "granule_bytes = %" PRIu64 "\n", disk->granule_bytes);
		if (!disk->store)
			continue;
		put(file, "store", disk->store);
		put(file, "identity", disk->identity);
		put(file, "store_device", disk->store_device);
		if (disk->store_device)
			fprintf(file, "store_offset = %" PRIu64 "\n", disk->store_offset);
	}
	if (fclose(file)) {
		free(text);
		return NULL;
	}
	return text;
}

void early_conf_id(const char *path, char out[17])
{
	CLEANUP_FREE char *text = malloc(CONF_MAX);
	CLEANUP_FILE FILE *file = text ? fopen(path, "re") : NULL;
	size_t bytes;

	out[0] = '\0';
	if (!file)
		return;
	bytes = fread(text, 1, CONF_MAX, file);
	if (!ferror(file))
		snprintf(out, 17, "%016" PRIx64, (uint64_t)XXH3_64bits(text, bytes));
}

static void unfinished(json_t *report)
{
	const char *step = json_string_value(json_object_get(report, "step"));
	const char *ended = json_string_value(json_object_get(report, "ended"));
	char text[512];

	snprintf(text, sizeof(text), "early attaching did not finish: %s: %s", step ? step : "at its start",
		 ended ? ended : "how it ended is not known");
	json_object_set_new(report, "error",
			    json_pack("{s:s, s:s}", "message", text, "remedy",
				      "see the kernel log of this boot: dmesg | grep -e reprotect -e blkcbt"));
}

json_t *early_report_load(const char *path)
{
	json_t *report = NULL;
	char error[256];
	int rc = util_read_json(path, &report, error, sizeof(error));

	if (rc == -ENOENT)
		return NULL;
	if (!rc && json_is_object(report)) {
		if (!json_is_true(json_object_get(report, "finished")) &&
		    !json_object_get(report, "error"))
			unfinished(report);
		return report;
	}
	json_decref(report);
	return json_pack("{s:b, s:[], s:{s:s, s:s}}", "finished", 0, "disks", "error", "message",
			 rc ? error : "the report of early boot is not an object", "remedy",
			 "it is written anew at the next boot");
}

const json_t *early_report_disk(const json_t *report, uint64_t kernel_id)
{
	const json_t *disk;
	char id[24];
	size_t i;

	snprintf(id, sizeof(id), "%" PRIx64, kernel_id);
	json_array_foreach(json_object_get(report, "disks"), i, disk)
	{
		const char *its = json_string_value(json_object_get(disk, "kernel_id"));

		if (its && !strcmp(its, id))
			return disk;
	}
	return NULL;
}

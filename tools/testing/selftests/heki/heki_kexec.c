// SPDX-License-Identifier: GPL-2.0
/*
 * The system calls of kexec, one at a time: says what became of it.
 *
 *   heki_kexec load FILE     kexec_file_load(), with a command line of its own
 *   heki_kexec crash FILE    the same for a crash
 *   heki_kexec unload        both, of the kernel that is loaded
 *   heki_kexec segments      kexec_load() of nothing
 *   heki_kexec start         reboot() into the kernel that is loaded
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long load_file(const char *path, unsigned long flags)
{
	static const char cmdline[] = "heki.mode=another";
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return -1;
	return syscall(SYS_kexec_file_load, fd, -1, sizeof(cmdline), cmdline,
		       flags | KEXEC_FILE_NO_INITRAMFS);
}

static long call(const char *what, const char *path)
{
	if (!strcmp(what, "load"))
		return load_file(path, 0);
	if (!strcmp(what, "crash"))
		return load_file(path, KEXEC_FILE_ON_CRASH);
	if (!strcmp(what, "unload"))
		return syscall(SYS_kexec_file_load, -1, -1, 0, NULL, KEXEC_FILE_UNLOAD);
	if (!strcmp(what, "segments"))
		return syscall(SYS_kexec_load, 0, 0, NULL, KEXEC_ARCH_X86_64);
	if (!strcmp(what, "start"))
		return syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
			       LINUX_REBOOT_CMD_KEXEC, NULL);
	errno = EDOM;
	return -1;
}

int main(int argc, char *argv[])
{
	if (call(argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "") < 0) {
		printf("%s\n", strerror(errno));
		return 1;
	}
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Off means off: a VM that did not opt in has no hypercall, no protection, no
 * counter and no debugfs file, even while another VM on the host is sealed. With
 * kvm.heki=all there is no such VM, and other tests run.
 */
#include "kvm_test_harness.h"
#include "heki.h"

#define DEBUGFS		"/sys/kernel/debug/kvm"
#define READ_ONLY	4
#define CODE		5

FIXTURE(off) {
	struct heki_vm h;	/* not opted in */
	struct heki_vm other;	/* sealed */
};

static void seal_other(struct heki_vm *h)
{
	struct heki_seal *req;

	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	req = heki_begin_request(h, 0);
	heki_add_page(req, 0);
	heki_add_pin(req, HEKI_REG_CR0, X86_CR0_WP);
	heki_seal(h);
}

FIXTURE_SETUP(off)
{
	if (heki_is_for_all())
		SKIP(return, "kvm.heki=all opts every VM in");
	__heki_vm_create(&self->h, 1, HEKI_VM_OFF, VM_MEM_SRC_ANONYMOUS);
	heki_vm_create(&self->other, 1);
	seal_other(&self->other);
}

FIXTURE_TEARDOWN(off)
{
	heki_vm_free(&self->h);
	heki_vm_free(&self->other);
}

static s64 query(struct heki_vm *h)
{
	return heki_hypercall(h->vcpu[0], HEKI_OP_QUERY, HEKI_ANSWER_GPA,
			      sizeof(struct heki_query), 0);
}

HEKI_TEST(off, there_is_no_hypercall)
{
	struct heki_vm *h = &self->h;

	heki_poke(h, HEKI_ANSWER_GPA, HEKI_CALM);
	EXPECT_EQ(-KVM_ENOSYS, query(h));
	EXPECT_EQ(HEKI_CALM, heki_peek(h, HEKI_ANSWER_GPA));
	heki_add_page(heki_begin_request(h, 0), 0);
	EXPECT_EQ(-KVM_ENOSYS, heki_send(h, h->vcpu[0]));
	EXPECT_EQ(-KVM_ENOSYS, heki_hypercall(h->vcpu[0], 2, 0, 0, 0));
	EXPECT_EQ(-KVM_ENOSYS, heki_hypercall(h->vcpu[0], 0, 0, 0, 1));
	EXPECT_EQ(0, query(&self->other));
}

/* And none before the first VM opts in, when the code is patched out. */
HEKI_TEST(off, there_is_no_hypercall_without_the_other_vm)
{
	heki_vm_free(&self->other);
	EXPECT_EQ(-KVM_ENOSYS, query(&self->h));
	heki_vm_create(&self->other, 1);
	EXPECT_EQ(-KVM_ENOSYS, query(&self->h));
	EXPECT_EQ(0, query(&self->other));
}

HEKI_TEST(off, memory_is_free)
{
	struct heki_vm *h = &self->h;

	heki_put_code(h, HEKI_PAGE(CODE));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], 0));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(CODE)));
	EXPECT_TRUE(heki_is_sealed(&self->other, self->other.vcpu[0], 0));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], 0));
}

static u64 guest_clear_wp(u64 *arg)
{
	return guest_set_cr0((u64[]){ get_cr0() & ~X86_CR0_WP });
}

static bool can_write_read_only(struct kvm_vcpu *vcpu)
{
	return !heki_call(vcpu, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK);
}

HEKI_TEST(off, registers_are_free)
{
	struct heki_vm *h = &self->h;

	*vm_get_pte(h->vm, heki_map_alias(h, READ_ONLY)) &= ~PTE_WRITABLE_MASK(&h->vm->mmu);
	EXPECT_TRUE(can_write_read_only(h->vcpu[0]));
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	EXPECT_FALSE(can_write_read_only(h->vcpu[0]));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_clear_wp));
	EXPECT_TRUE(can_write_read_only(h->vcpu[0]));
	EXPECT_EQ(GP_VECTOR, heki_call(self->other.vcpu[0], guest_clear_wp));
}

HEKI_TEST(off, nothing_is_counted)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	query(&self->h);
	heki_add_page(heki_begin_request(&self->h, 0), 0);
	heki_send(&self->h, vcpu);
	EXPECT_TRUE(heki_is_sealed(&self->other, self->other.vcpu[0], 0));

	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_query));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_seal));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_refused));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_write));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_exec));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_cr));
	EXPECT_EQ(1, vcpu_get_stat(self->other.vcpu[0], heki_seal));
}

/* The VM's debugfs file in @path; the directory has the name of process and file. */
static void debugfs_path(struct heki_vm *h, const char *name, char *path, size_t len)
{
	snprintf(path, len, DEBUGFS "/%d-%d/%s", getpid(), h->vm->fd, name);
}

static bool has_debugfs_file(struct heki_vm *h, const char *name)
{
	char path[128];

	debugfs_path(h, name, path, sizeof(path));
	return !access(path, F_OK);
}

HEKI_TEST(off, there_is_no_debugfs_file)
{
	if (access(DEBUGFS, F_OK))
		SKIP(return, "no debugfs at " DEBUGFS);
	/* That the path is right. */
	ASSERT_TRUE(has_debugfs_file(&self->h, "mmu_rmaps_stat"));
	EXPECT_FALSE(has_debugfs_file(&self->h, "heki"));
	EXPECT_TRUE(has_debugfs_file(&self->other, "heki"));
}

/* What an operator reads about a sealed VM. */
HEKI_TEST(off, the_other_vm_has_a_debugfs_file)
{
	char path[128], text[1024] = {};
	int fd;

	if (access(DEBUGFS, F_OK))
		SKIP(return, "no debugfs at " DEBUGFS);
	debugfs_path(&self->other, "heki", path, sizeof(path));
	fd = open(path, O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_LT(0, read(fd, text, sizeof(text) - 1));
	close(fd);
	EXPECT_NE(NULL, strstr(text, "state sealed\n"));
	EXPECT_NE(NULL, strstr(text, "pin cr0 0x10000\n"));
	EXPECT_NE(NULL, strstr(text, "range 0x40000000-0x40000fff "));
}

/*
 * The host's other choice: every VM is opted in, its VMM need not know of it
 */

FIXTURE(all) {
	struct heki_vm h;
};

FIXTURE_SETUP(all)
{
	if (!heki_is_for_all())
		SKIP(return, "kvm.heki=off: only VMs that ask are opted in");
	__heki_vm_create(&self->h, 1, HEKI_VM_OFF, VM_MEM_SRC_ANONYMOUS);
}

FIXTURE_TEARDOWN(all)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(all, a_vm_without_the_device_can_be_sealed)
{
	struct heki_vm *h = &self->h;

	EXPECT_EQ(HEKI_STATE_OPEN, heki_query(h).state);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], 0));
	heki_seal_page(h, 0);
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
}

/* A VMM that does know gets its handle at any time. */
HEKI_TEST(all, a_late_device_can_reset)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, 0);
	h->device = kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI);
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL);
	EXPECT_EQ(HEKI_STATE_OPEN, heki_query(h).state);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], 0));
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}

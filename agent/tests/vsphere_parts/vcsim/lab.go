package simulator

// What vcsim lacks for a backup: the export of a snapshot's disks, identities of changes and what
// changed. The answers are the test's own, read from files below LabDir/MACHINE/: KEY.vmdk (a disk),
// KEY.change (the identity of its change now), KEY.areas (lines of "since start length"), KEY.size
// (bytes, where it grew), refuse (the guest refuses to be quiet, once).

import (
	"bufio"
	"fmt"
	"io"
	"io/ioutil"
	"net/http"
	"os"
	"path"
	"reflect"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// LabDir holds the disks.
var LabDir string

// How much of a disk one answer covers: a client must ask on.
const labPage = 8 << 20

type lab struct{}

func (lab) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "StrongroomLab", Value: "lab"}
}

func (lab) UpdateObject(mo.Reference, []types.PropertyChange) {}

func (lab) RemoveObject(types.ManagedObjectReference) {}

// PutObject has its hand in a snapshot that is about to be made, or was.
func (lab) PutObject(item mo.Reference) {
	switch made := item.(type) {
	case *Task:
		labTask(made)
	case *VirtualMachineSnapshot:
		labSnapshot(made)
	}
}

// The disks are as large as the test says by now; and a guest that the test wants to refuse to be
// quiet, refuses once.
func labTask(task *Task) {
	if task.Info.DescriptionId != "VirtualMachine.createSnapshot" {
		return
	}
	vm := Map.Get(*task.Info.Entity).(*VirtualMachine)
	for _, device := range vm.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			told, _ := ioutil.ReadFile(labFile(vm, disk.Key, "size"))
			if bytes, err := strconv.ParseInt(string(told), 10, 64); err == nil {
				disk.CapacityInBytes = bytes
				disk.CapacityInKB = bytes / 1024
			}
		}
	}
	if os.Remove(path.Join(LabDir, vm.Name, "refuse")) == nil {
		task.Execute = func(*Task) (types.AnyType, types.BaseMethodFault) {
			return nil, new(types.ApplicationQuiesceFault)
		}
	}
}

// The disks of a new snapshot get the identities of their changes.
func labSnapshot(snapshot *VirtualMachineSnapshot) {
	vm := Map.Get(snapshot.Vm).(*VirtualMachine)
	tracked := snapshot.Config.ChangeTrackingEnabled
	var devices []types.BaseVirtualDevice
	for _, device := range snapshot.Config.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if ok && tracked != nil && *tracked {
			if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
				change, _ := ioutil.ReadFile(labFile(vm, disk.Key, "change"))
				own, named := *disk, *backing
				named.ChangeId = strings.TrimSpace(string(change))
				own.Backing = &named
				device = &own
			}
		}
		devices = append(devices, device)
	}
	snapshot.Config.Hardware.Device = devices
}

func labFile(vm *VirtualMachine, key int32, kind string) string {
	return path.Join(LabDir, vm.Name, fmt.Sprintf("%d.%s", key, kind))
}

// PrepareLab gives every machine disks of these sizes, and one that no snapshot has.
func PrepareLab(sizes []int64) {
	Map.AddHandler(lab{})
	for _, entity := range Map.All("VirtualMachine") {
		vm := entity.(*VirtualMachine)
		var first *types.VirtualDisk
		var devices []types.BaseVirtualDevice
		for _, device := range vm.Config.Hardware.Device {
			if disk, ok := device.(*types.VirtualDisk); ok {
				first = disk
			} else {
				devices = append(devices, device)
			}
		}
		for number, bytes := range append(sizes, 1<<20) {
			disk, unit := *first, int32(number)
			backing := *first.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			backing.Uuid = fmt.Sprintf("6000c290-0000-0000-0000-%012d", number)
			if number == len(sizes) {
				backing.DiskMode = string(types.VirtualDiskModeIndependent_persistent)
			}
			disk.Backing = &backing
			disk.Key = 2000 + unit
			disk.UnitNumber = &unit
			disk.CapacityInBytes = bytes
			disk.CapacityInKB = bytes / 1024
			devices = append(devices, &disk)
		}
		vm.Config.Hardware.Device = devices
	}
}

// ExportSnapshot gives a lease with an address for each disk, as ESXi does.
func (s *VirtualMachineSnapshot) ExportSnapshot(ctx *Context, req *types.ExportSnapshot) soap.HasFault {
	vm := Map.Get(s.Vm).(*VirtualMachine)
	lease := NewHttpNfcLease(ctx, s.Vm)
	ref := lease.Reference()
	lease.Info.Lease = ref
	lease.Info.LeaseTimeout = 300
	devices := object.VirtualDeviceList(s.Config.Hardware.Device)
	for _, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		controller := devices.FindByKey(disk.ControllerKey)
		kind := reflect.TypeOf(controller).Elem().Name()
		bus := controller.(types.BaseVirtualController).GetVirtualController().BusNumber
		name := fmt.Sprintf("disk-%d.vmdk", disk.Key)
		lease.files[name] = labFile(vm, disk.Key, "vmdk")
		lease.Info.DeviceUrl = append(lease.Info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{
			Key:      fmt.Sprintf("/%s/%s%d:%d", vm.Self.Value, kind, bus, *disk.UnitNumber),
			Url:      fmt.Sprintf("https://*/lab/%s/%s", ref.Value, name),
			Disk:     types.NewBool(true),
			TargetId: name,
		})
	}
	return &methods.ExportSnapshotBody{Res: &types.ExportSnapshotResponse{Returnval: ref}}
}

// ServeLab gives the stream of a disk.
func ServeLab(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	ref := types.ManagedObjectReference{Type: "HttpNfcLease", Value: parts[len(parts)-2]}
	lease, ok := nfcLease.Load(ref)
	if !ok {
		http.NotFound(w, r)
		return
	}
	file, err := os.Open(lease.(*HttpNfcLease).files[parts[len(parts)-1]])
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer file.Close()
	_, _ = io.Copy(w, file)
}

// QueryChangedDiskAreas tells what the test says changed, a page at a time.
func (vm *VirtualMachine) QueryChangedDiskAreas(req *types.QueryChangedDiskAreas) soap.HasFault {
	body := new(methods.QueryChangedDiskAreasBody)
	name := labFile(vm, req.DeviceKey, "areas")
	refused := Fault("Error caused by file "+name, &types.FileFault{File: name})
	file, err := os.Open(name)
	if err != nil {
		body.Fault_ = refused
		return body
	}
	defer file.Close()
	device := object.VirtualDeviceList(vm.Config.Hardware.Device).FindByKey(req.DeviceKey)
	length := device.(*types.VirtualDisk).CapacityInBytes - req.StartOffset
	if length > labPage {
		length = labPage
	}
	info := types.DiskChangeInfo{StartOffset: req.StartOffset, Length: length}
	known := false
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var since string
		var area types.DiskChangeExtent
		_, _ = fmt.Sscan(lines.Text(), &since, &area.Start, &area.Length)
		if since != req.ChangeId {
			continue
		}
		known = true
		if area.Length > 0 && area.Start >= info.StartOffset && area.Start < info.StartOffset+length {
			info.ChangedArea = append(info.ChangedArea, area)
		}
	}
	if !known {
		body.Fault_ = refused
		return body
	}
	body.Res = &types.QueryChangedDiskAreasResponse{Returnval: info}
	return body
}
